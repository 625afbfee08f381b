"""How a connection is waited for."""

import socket
import threading
import time

import pytest

from flaremesh.links import LinkKind
from flaremesh.links.channel import Channel


@pytest.fixture
def ends():
    """A channel, and the other end of its connection."""
    own, other = socket.socketpair()
    channel = Channel(own, LinkKind.DIRECT)
    yield channel, other
    channel.close()
    other.close()


def test_what_comes_is_noticed_whether_what_came_before_came_soon_or_late(ends):
    channel, other = ends
    for seconds in (0.0, 0.0, 0.02, 0.02, 0.0):
        sender = threading.Timer(seconds, other.send, [b"x"])
        sender.start()
        assert channel.is_ready(10)
        sender.join()
        channel.fill()


def test_a_long_wait_costs_no_time_of_a_core(ends):
    channel, other = ends
    other.send(b"x")
    assert channel.is_ready(10)  # soon
    channel.fill()
    began, worked = time.monotonic(), time.thread_time()
    assert not channel.is_ready(0.3)
    assert not channel.is_ready(0.3)
    assert time.monotonic() - began >= 0.6
    assert time.thread_time() - worked < 0.03
