"""An exporter answers in the families of the address that it was given."""

import socket
import urllib.error
import urllib.request

import pytest

from flaremesh.hosts import at
from flaremesh.metrics.exporter import Exporter


@pytest.fixture
def exporter_at():
    made = []

    def make(host):
        made.append(Exporter(host, 0, [], list, lambda: (True, b"{}"), {"/kit": lambda query: b"{}"}))
        return made[-1]

    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback address: {error}")
    yield make
    for exporter in made:
        exporter.close()


def answers(host, exporter):
    """Whether somebody answers there who takes this machine for the one that it is on."""
    try:
        with urllib.request.urlopen(f"http://{at(host, exporter.port)}/kit", timeout=5) as reply:
            return reply.status == 200
    except urllib.error.URLError:
        return False


@pytest.mark.parametrize(
    ("host", "answering"),
    [("::", ["127.0.0.1", "::1"]), ("::1", ["::1"]), ("127.0.0.1", ["127.0.0.1"])],
)
def test_it_answers_at_its_address_and_at_no_other(exporter_at, host, answering):
    exporter = exporter_at(host)
    assert [place for place in ("127.0.0.1", "::1") if answers(place, exporter)] == answering
