"""A meeting point joins the two ends of a pair, and passes on what comes, whatever that is."""

import os
import selectors
import socket
import threading
from pathlib import Path

import pytest
from meeting_place import MeetingPlace, comes_true, knocked, met, said

from flaremesh.meeting import point, vessels
from flaremesh.meeting.forwarder import MOST_OF_PAIR
from flaremesh.meeting.knock import await_go
from flaremesh.meeting.refusal import Reason

PARTS = os.urandom(1 << 20)
OPEN = Path("/proc/self/fd")


@pytest.fixture(params=["splice", "copy"])
def passing(request, monkeypatch, authority):
    """A meeting point that passes bytes on in the kernel, and one that cannot."""
    monkeypatch.setattr(vessels, "_CAN_SPLICE", request.param == "splice")
    place = MeetingPlace(authority)
    yield place
    place.close()


def read(stream, count):
    data = bytearray()
    while len(data) < count and (piece := stream.recv(1 << 20)):
        data += piece
    return bytes(data)


def exchange(streams, count):
    """Each end sends megabytes, both at once; returns whether both got what the other one sent."""
    arrived = {}

    def receive(number):
        arrived[number] = read(streams[number], count << 20)

    def send(number):
        for k in range(count):
            streams[number].sendall(bytes([number, k]) + PARTS[2:])

    threads = [threading.Thread(target=each, args=(n,)) for n in (0, 1) for each in (receive, send)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return all(
        arrived[1 - number] == b"".join(bytes([number, k]) + PARTS[2:] for k in range(count))
        for number in (0, 1)
    )


def test_megabytes_pass_both_ways_unchanged(passing, ends, closing):
    streams = [closing(stream) for stream in met(passing, ends)]
    for stream in streams:
        stream.settimeout(30)
    assert exchange(streams, 20)
    assert passing.shows(lambda figures: figures.passed_bytes == 40 << 20)


def test_a_byte_passes_at_once(passing, ends, closing):
    a, b = (closing(stream) for stream in met(passing, ends))
    for k in range(100):
        a.send(bytes([k]))
        assert b.recv(10) == bytes([k])
        b.send(bytes([k]) * 2)
        assert a.recv(10) == bytes([k]) * 2


def test_who_has_said_all_still_hears_the_rest(passing, ends, closing):
    a, b = (closing(stream) for stream in met(passing, ends))
    a.sendall(b"question")
    a.shutdown(socket.SHUT_WR)
    assert read(b, 1000) == b"question"
    b.sendall(PARTS)
    b.shutdown(socket.SHUT_WR)
    assert read(a, 2 << 20) == PARTS
    assert passing.shows(lambda figures: figures.joined == 0)


@pytest.mark.parametrize("abruptly", [False, True])
def test_who_leaves_leaves_the_other_one_too(passing, ends, abruptly):
    a, b = met(passing, ends)
    if abruptly:
        a.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    a.close()
    assert read(b, 1) == b""
    b.close()
    assert passing.shows(lambda figures: figures.joined == 0)


def test_who_does_not_read_holds_up_nobody_but_its_own_pair_and_loses_nothing(
    passing, authority, ends, closing
):
    a, b = (closing(stream) for stream in met(passing, ends))
    a.setblocking(False)
    sent = 0
    with selectors.DefaultSelector() as writable:
        writable.register(a, selectors.EVENT_WRITE)
        while writable.select(0.5):  # until nothing has room for half a second
            sent += a.send(PARTS)
    others = {name: authority.issue(name) for name in "cd"}
    assert exchange([closing(stream) for stream in met(passing, others)], 3)
    a.setblocking(True)
    a.shutdown(socket.SHUT_WR)
    arrived = read(b, sent + 1)
    assert len(arrived) == sent < 64 << 20
    assert passing.shows(lambda figures: figures.passed_bytes == sent + (6 << 20))


def test_an_end_that_comes_again_takes_its_own_place(place, ends, closing):
    shown = place.ticket("a", "b")
    first = closing(knocked(place.address, ends["a"], shown))
    assert place.shows(lambda figures: figures.waiting == 1)
    second = closing(knocked(place.address, ends["a"], shown))
    assert said(first) is Reason.REPLACED
    other = closing(knocked(place.address, ends["b"], shown))
    assert await_go(second, 10)
    assert await_go(other, 10)
    assert place.figures.waiting == 0


def test_who_leaves_while_it_waits_leaves_its_place(place, ends):
    knocked(place.address, ends["a"], place.ticket("a", "b")).close()
    assert place.shows(lambda figures: figures.waiting == 0 and figures.knocking == 0)
    for stream in met(place, ends):
        stream.close()


def test_who_speaks_before_it_is_told_to_is_sent_away(place, ends, closing):
    stream = closing(knocked(place.address, ends["a"], place.ticket("a", "b")))
    assert place.shows(lambda figures: figures.waiting == 1)
    stream.sendall(b"hello?")
    assert said(stream) is Reason.MALFORMED


def test_pairs_and_runs_are_told_apart(place, authority, closing):
    sites = {name: authority.issue(name) for name in "abc"}
    streams = {}
    for run in ("r1", "r2"):
        for pair in ("ab", "ac", "bc"):
            for name in pair:
                shown = place.ticket(*pair, run=run)
                stream = knocked(place.address, sites[name], shown, tuple(pair), run=run)
                streams[run, pair, name] = closing(stream)
    for (run, pair, name), stream in streams.items():
        assert await_go(stream, 10)
        stream.sendall(f"{run} {pair} {name}".encode())
    for (run, pair, name), stream in streams.items():
        other = pair.replace(name, "")
        assert stream.recv(100) == f"{run} {pair} {other}".encode()


def test_a_pair_has_two_joined_connections_at_most(place, ends, closing):
    pairs = [[closing(stream) for stream in met(place, ends)] for _ in range(MOST_OF_PAIR + 1)]
    assert read(pairs[0][0], 1) == b""
    for a, b in pairs[1:]:
        a.sendall(b"x")
        assert b.recv(1) == b"x"
    assert place.figures.joined == MOST_OF_PAIR


def test_who_waits_in_vain_is_told_so_and_may_come_again(monkeypatch, place, ends, closing):
    monkeypatch.setattr(point, "WAITING_SECONDS", 0.3)
    assert said(closing(knocked(place.address, ends["a"], place.ticket("a", "b")))) is Reason.ALONE
    assert place.figures.refused == {Reason.ALONE: 1}
    assert place.figures.waiting == 0
    for stream in met(place, ends):
        stream.close()


def test_at_the_end_who_waits_is_told_and_what_was_joined_is_broken(place, authority, ends, closing):
    a, b = (closing(stream) for stream in met(place, ends))
    waiting = closing(knocked(place.address, authority.issue("c"), place.ticket("c", "a"), ("a", "c")))
    assert place.shows(lambda figures: figures.waiting == 1)
    figures = place.figures
    place.close()
    assert said(waiting) is Reason.CLOSING
    assert read(a, 1) == read(b, 1) == b""
    assert (figures.joined, figures.waiting, figures.knocking) == (0, 0, 0)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(place.address, 5)


def test_no_pipe_is_kept_by_a_pair_in_which_nothing_passes(passing, ends, closing):
    before = len(list(OPEN.iterdir()))
    pairs = []
    for run in range(20):
        shown = passing.ticket("a", "b", run=f"r{run}")
        pairs.append([closing(knocked(passing.address, ends[n], shown, run=f"r{run}")) for n in "ab"])
    for pair in pairs:
        for stream in pair:
            assert await_go(stream, 10)
        pair[0].sendall(b"x")
        assert pair[1].recv(1) == b"x"
    # a socket at each of four ends, and the pipe that all of them used one after the other
    assert comes_true(lambda: len(list(OPEN.iterdir())) <= before + 20 * 4 + 2)
