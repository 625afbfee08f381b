"""A link that is closed while it makes connections does not wait for them."""

import socket
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

from flaremesh.links import LinkError, LinkKind, connector
from flaremesh.links.attempts import Attempts
from flaremesh.waiting import wait_while

SOON = 5.0


@pytest.fixture(autouse=True)
def slow(monkeypatch):
    """An attempt takes a minute."""
    monkeypatch.setattr(connector, "_ATTEMPT_SECONDS", 60)


@contextmanager
def mute():
    """An address that answers no further connection: all that its host keeps are taken."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            each = stack.enter_context(socket.socket())
            each.setblocking(False)
            each.connect_ex(listening.getsockname())
        yield listening.getsockname()


@contextmanager
def silent():
    """An address that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()


def test_an_attempt_that_waits_for_an_answer_is_ended_and_none_begins_after_that():
    attempts, failures = Attempts(), []

    def connect():
        try:
            attempts.connect(address, 60)
        except OSError as error:
            failures.append(error)

    with mute() as address:
        thread = threading.Thread(target=connect)
        thread.start()
        assert not wait_while(lambda: not attempts._streams, 10, 0.01)
        attempts.end()
        thread.join(SOON)
        assert not thread.is_alive()
        connect()
    assert len(failures) == 2
    assert not attempts._streams


def closes_soon(link, addresses):
    """Whether a link that cannot be opened, and dials, is closed at once."""
    with pytest.raises(LinkError):
        link.open(addresses, 0.2)
    assert not wait_while(lambda: not link._dialler._attempts._streams, 10, 0.01)
    started = time.monotonic()
    link.close(patience=0)
    return time.monotonic() - started < SOON


@pytest.mark.parametrize("peer", [mute, silent])
def test_a_link_that_dials_a_host_without_an_answer_is_closed_at_once(sites, peer):
    link = sites.add("a", ["b"], ["b"], carriers=[LinkKind.DIRECT])
    with peer() as address:
        assert closes_soon(link, {"b": address})


def test_a_link_whose_peer_does_not_come_to_the_meeting_point_is_closed_at_once(sites, place):
    link = sites.add("a", ["b"], ["b"], carriers=[LinkKind.MET], listens=False, meeting=place.meeting("a"))
    assert closes_soon(link, {})
