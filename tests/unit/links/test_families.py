"""Direct connections over IPv6."""

import socket

import pytest

from flaremesh.links import LinkError
from flaremesh.links.carriers.direct import DirectCarrier, bind


@pytest.fixture
def listener():
    try:
        listener = bind("::1", (0, 0))
    except LinkError as error:
        pytest.skip(str(error))
    with listener:
        yield listener


def test_a_site_is_dialled_at_an_ipv6_address(listener):
    address = "::1", listener.getsockname()[1]
    carrier = DirectCarrier(None)
    carrier.open({"b": address})
    with carrier.dial("b", 5) as stream, listener.accept()[0] as accepted:
        stream.sendall(b"x")
        assert accepted.recv(1) == b"x"
    assert carrier.whereabouts("b") == f" at [::1]:{address[1]}"


def test_only_this_machine_dials_a_site_at_loopback(listener):
    assert listener.family == socket.AF_INET6
    assert listener.getsockname()[0] == "::1"


def test_an_address_that_a_neighbour_made_up_is_no_place(listener):
    carrier = DirectCarrier(None)
    carrier.open({"b": ("::1::", 1)})
    with pytest.raises(OSError, match=r"not known|not supported|resolution"):
        carrier.dial("b", 5)


def test_a_port_of_the_range_that_is_taken_is_left_out(listener):
    taken = listener.getsockname()[1]
    with pytest.raises(LinkError, match=f"port {taken} is taken"):
        bind("::1", (taken, taken))
