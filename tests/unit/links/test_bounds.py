"""What a neighbour can make a site hold is a few messages, also before the run knows how long these are."""

import ssl
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from direct_mesh import exchange
from neighbour import BOUND, data, greeted, word

from flaremesh.links import Key, PeerBehind, Refusal, send_in_time
from flaremesh.links.buffers import BufferPool
from flaremesh.links.carriers.stream import Piece, PieceKind, pack
from flaremesh.links.frame import Kind
from flaremesh.waiting import wait_while

LENGTH = 1 << 20
GIANT = 1 << 31


@pytest.fixture
def dialled(sites, authority):
    """A site b, which does not know yet how long messages are, and its neighbour m, whom the test plays."""
    address = sites.add("b", ["m"], ["m"], mode="direct").address
    with greeted(address, authority.issue("m")) as neighbour:
        yield sites.links["b"], sites.observers["b"], neighbour


@pytest.fixture
def memory(monkeypatch):
    """The lengths for which memory was taken."""
    lengths, take = [], BufferPool.take
    monkeypatch.setattr(BufferPool, "take", lambda pool, length: lengths.append(length) or take(pool, length))
    return lengths


# before it is known how long messages are


def test_a_giant_waits_outside_until_the_length_is_known_and_is_refused_then(dialled, memory):
    b, observer, neighbour = dialled
    neighbour.send(data(1, bytes(LENGTH), length=GIANT))
    assert not wait_while(lambda: not b._pairs["m"]._said.inlet.has_no_place, BOUND, 0.01)
    assert b._pairs["m"].kind is not None  # neither taken nor refused
    assert not observer.refusals
    b.expect(LENGTH)
    assert observer.wait_for(lambda: observer.refusals["m", Refusal.OVERSIZED] == 1)
    assert neighbour.is_hung_up()
    assert memory == []
    assert not wait_while(lambda: b._pairs["m"].kind is not None, BOUND, 0.01)
    assert b._pairs["m"].condition.endswith("is its model another one?")


def test_a_message_that_comes_too_early_waits_and_is_taken_then(dialled, memory):
    b, observer, neighbour = dialled
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(neighbour.send, data(1, bytes(2 * LENGTH)))
        assert not wait_while(lambda: not b._pairs["m"]._said.inlet.has_no_place, BOUND, 0.01)
        assert memory == []
        b.expect(2 * LENGTH)
        key = Key(0, 0, "m")
        assert len(b.receive([key], BOUND)[key]) == 2 * LENGTH
        sending.result(BOUND)
    assert not observer.refusals


def test_little_is_taken_in_before(dialled):
    b, _, neighbour = dialled
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(neighbour.send, *(data(k + 1, bytes(LENGTH // 4), k) for k in range(8)))
        assert not wait_while(lambda: not b._pairs["m"]._said.inlet.has_no_place, BOUND, 0.01)
        assert b._inbox.waiting("m") == (4, LENGTH)
        b.expect(LENGTH)
        keys = [Key(k, 0, "m") for k in range(8)]
        assert len(b.receive(keys, BOUND)) == 8
        sending.result(BOUND)


# once it is known


def test_messages_that_nobody_asked_for_fill_a_few_places_and_no_more(dialled, memory):
    b, observer, neighbour = dialled
    b.expect(LENGTH)
    with ThreadPoolExecutor(1) as pool:
        frames = [data(k + 1, bytes(LENGTH), 10**6 + k) for k in range(40)]
        sending = pool.submit(neighbour.send, *frames)
        assert not wait_while(lambda: not b._pairs["m"]._said.inlet.has_no_place, BOUND, 0.01)
        assert b._inbox.waiting("m") == (8, 8 * LENGTH)
        assert memory == [LENGTH] * 8
        b.send("m", Key(0, 0, "b"), [b"not held up by them"])
        assert neighbour.message()[1] == b"not held up by them"
        b.close(patience=0)
        with pytest.raises((ConnectionError, ssl.SSLEOFError)):
            sending.result(BOUND)
    assert not observer.refusals


def test_a_second_message_under_a_name_is_counted(dialled):
    b, observer, neighbour = dialled
    neighbour.send(data(1, b"first"), data(2, b"second"))
    assert observer.wait_for(lambda: observer.refusals == {("m", Refusal.REPLAYED): 1})
    assert bytes(b.receive([Key(0, 0, "m")], BOUND)[Key(0, 0, "m")]) == b"first"


def test_small_messages_have_a_bound_of_their_own(dialled):
    b, _, neighbour = dialled
    b.expect(LENGTH)
    neighbour.send(*(data(k + 1, b"x", k) for k in range(300)))
    assert not wait_while(lambda: not b._pairs["m"]._said.inlet.has_no_place, BOUND, 0.01)
    assert b._inbox.waiting("m") == (256, 256)


# neighbours that take nothing


def test_a_neighbour_that_never_acknowledges_ends_the_edge_within_the_peer_timeout(dialled):
    b, _, neighbour = dialled
    started, sent = time.monotonic(), 0
    with ThreadPoolExecutor(1) as pool:
        pool.submit(neighbour.is_hung_up)  # reads all of it, and never says so
        with pytest.raises(PeerBehind, match="m has not taken"):  # noqa: PT012  (which send fails is said below)
            for sent in range(100):
                send_in_time(b, "m", Key(sent, 0, "b"), [bytes(LENGTH)], 0.5)
        assert 0.5 <= time.monotonic() - started < 5
        assert sent == 8
        b.close(patience=0)


def test_nor_does_one_that_acknowledges_all_and_takes_nothing_make_it_keep_more(dialled):
    b, _, neighbour = dialled
    for k in range(8):  # for which there is room
        b.send("m", Key(k, 0, "b"), [bytes(LENGTH)])
        assert neighbour.message()[0] == k + 1
    neighbour.send(word(Kind.ACK, 8))
    for k in range(8, 16):  # which are kept
        send_in_time(b, "m", Key(k, 0, "b"), [bytes(LENGTH)], BOUND)
    with pytest.raises(PeerBehind, match="m has not taken the last 8 messages"):
        send_in_time(b, "m", Key(16, 0, "b"), [bytes(LENGTH)], 0.5)
    assert neighbour.stays_without(Kind.DATA)  # it may ask what has arrived
    b.close(patience=0)


# one way at a time


def test_a_run_by_direct_links_takes_nothing_from_the_relay(sites):
    sites.add("a", [], ["b"], mode="direct")
    sites.add("b", ["a"], [], mode="direct")
    assert not any(sites.open().values())
    for kind in PieceKind:
        sites.delivering["b"]("a", pack(Piece(kind, bytes(8), 0, 0, b"x")))
    assert sites.observers["b"].refusals == {("a", Refusal.CARRIER): len(PieceKind)}
    assert exchange(sites, [("a", "b")], 3, lambda sender, k: b"%d" % k) == []
    assert not sites.relayed
