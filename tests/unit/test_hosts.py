"""Hosts of both families: how they are compared and written, and who can dial what listens for them."""

import socket

import pytest

from flaremesh.hosts import address_of, at, canonical, listening


def here(family, address):
    """Whether this machine has an address, as an argument for a test that needs it."""
    try:
        socket.create_server((address, 0), family=family).close()
    except OSError as error:
        return pytest.mark.skip(f"this machine has no {address}: {error}")
    return ()


IPV6 = here(socket.AF_INET6, "::1")


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("mesh.example.org", "mesh.example.org:8002"),
        ("192.0.2.1", "192.0.2.1:8002"),
        ("2001:db8::1", "[2001:db8::1]:8002"),
        ("::1", "[::1]:8002"),
    ],
)
def test_an_address_with_colons_is_written_in_brackets(host, text):
    assert at(host, 8002) == text


def test_hosts_are_compared_in_one_spelling():
    assert canonical("2001:DB8:0:0::1") == canonical("2001:db8::0:1") == "2001:db8::1"
    assert canonical("Mesh.Example.org") == "mesh.example.org"
    assert address_of("fd00.example.org") is None


def dialled(listener, address):
    try:
        socket.create_connection((address, listener.getsockname()[1]), 5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "reached", "not_reached"),
    [
        ("localhost", "127.0.0.1", "127.0.0.2"),
        ("LOCALHOST", "127.0.0.1", "127.0.0.2"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
        ("127.0.0.2", "127.0.0.2", "127.0.0.1"),
        pytest.param("::1", "::1", "127.0.0.1", marks=IPV6),
    ],
)
def test_a_loopback_address_is_all_that_is_listened_on(host, reached, not_reached):
    with listening(host, 0) as listener:
        assert dialled(listener, reached)
        assert not dialled(listener, not_reached)
        assert address_of(listener.getsockname()[0]).is_loopback


@pytest.mark.parametrize("host", ["mesh.example.org", "localhost.example.org", "2001:db8::1"])
@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", pytest.param("::1", marks=IPV6)])
def test_whatever_a_name_leads_to_both_families_are_listened_on(host, address):
    with listening(host, 0) as listener:
        assert dialled(listener, address)


def test_for_an_ipv4_address_ipv4_is_enough():
    with listening("192.0.2.1", 0) as listener:
        assert dialled(listener, "127.0.0.2")
        assert listener.family == socket.AF_INET


def test_a_port_that_is_taken_in_one_family_is_not_free():
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match="in use"):
        listening("mesh.example.org", other.getsockname()[1])
