"""How fast a connection is, by its two ends: real sockets, whose other end may be anything."""

import socket
import threading
from contextlib import suppress

import pytest

from flaremesh.links import speed
from flaremesh.links.frame import Frame, Kind, pack


@pytest.fixture
def ends():
    near, far = socket.socketpair()
    yield near, far
    near.close()
    far.close()


@pytest.fixture(autouse=True)
def _little_time(monkeypatch):
    monkeypatch.setattr(speed, "STREAM_SECONDS", 0.3)
    monkeypatch.setattr(speed, "MOST_SECONDS", 5.0)


def beside(act, *arguments):
    thread = threading.Thread(target=act, args=arguments)
    thread.start()
    return thread


def test_both_directions_of_a_connection_are_measured(ends):
    near, far = ends
    answering = beside(speed.answer, far)
    found = speed.measure(near)
    answering.join()
    assert 0 < found.round_trip < 1
    assert found.sent > 1e6
    assert found.received > 1e6
    assert (near.fileno(), far.fileno()) == (-1, -1)


def test_a_connection_that_sends_few_bytes_a_second_is_found_slow(ends):
    """Between the two ends a thread lets through so many bytes a second in one direction."""
    near, middle = ends
    other, far = socket.socketpair()
    rate, pause = 2_000_000, threading.Event()

    def forward(source, target, slowly):
        while data := source.recv(rate // 50 if slowly else 1 << 16):
            target.sendall(data)
            pause.wait(len(data) / rate if slowly else 0)

    threads = [beside(forward, middle, other, True), beside(forward, other, middle, False)]
    answering = beside(speed.answer, far)
    found = speed.measure(near)
    answering.join()
    for end in (middle, other):  # closed at once, it would be taken away from a thread that reads
        end.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    other.close()
    assert 0 < found.sent < 1.5 * rate  # a piece more or less counts much in so little time
    assert found.received > found.sent


@pytest.mark.parametrize(
    "said",
    [
        pack(Frame(Kind.END, 0, 0, 0)),
        bytes(48 * [255]),
        pack(Frame(Kind.DATA, 1, 0, 0, length=5)) + b"12345",
    ],
)
def test_an_end_that_does_not_answer_pings_is_told_to_be_of_another_version(ends, said):
    near, far = ends
    far.sendall(said)
    with pytest.raises(OSError, match="one version"):
        speed.measure(near)


def test_an_end_that_hangs_up_is_noticed(ends):
    near, far = ends
    far.close()
    with pytest.raises(OSError, match=r"hung up|pipe"):
        speed.measure(near)


def test_an_end_that_says_nothing_is_given_up_in_time(ends, monkeypatch):
    monkeypatch.setattr(speed, "MOST_SECONDS", 0.2)
    near, _ = ends
    with pytest.raises(TimeoutError, match=r"longer than 0\.2 s"):
        speed.measure(near)


@pytest.mark.parametrize("claimed", [0, 1 << 60])
def test_an_end_that_claims_what_cannot_be_is_not_believed(ends, claimed):
    """It got nothing, or more than was ever sent."""
    near, far = ends

    def lie():
        with far.makefile("rb") as stream:
            far.sendall(20 * pack(Frame(Kind.ALIVE, 0, 0, 0)))
            far.sendall(pack(Frame(Kind.DATA, 1, 0, 0, length=1 << 16)) + bytes(1 << 16))
            far.sendall(pack(Frame(Kind.END, 0, 0, 0)) + pack(Frame(Kind.ACK, 0, claimed, 1)))
            while stream.read(1 << 16):
                pass

    lying = beside(lie)
    with pytest.raises(OSError, match="one version"):
        speed.measure(near)
    lying.join()


def test_an_end_that_never_stops_sending_is_stopped(ends, monkeypatch):
    monkeypatch.setattr(speed, "MOST_SECONDS", 1.0)
    near, far = ends

    def flood():
        piece = pack(Frame(Kind.DATA, 1, 0, 0, length=1 << 16)) + bytes(1 << 16)
        with suppress(OSError):
            far.sendall(20 * pack(Frame(Kind.ALIVE, 0, 0, 0)))
            while True:
                far.sendall(piece)
                with suppress(BlockingIOError):
                    far.recv(1 << 16, socket.MSG_DONTWAIT)

    flooding = beside(flood)
    with pytest.raises(OSError, match="longer than 1 s"):
        speed.measure(near)
    flooding.join()
