"""A server that meddles with what it relays breaks connections, and no message."""

import itertools
import random

import pytest
from direct_mesh import exchange
from hostile_server import Server, hasten_all, with_piece
from streams import Post

from flaremesh.links.carriers.stream import PieceKind
from flaremesh.links.life import Tolerance
from flaremesh.topology.links import LinkKind

PAIRS = [("a", "b"), ("b", "a")]
TOLERANT = Tolerance(redial=60)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    hasten_all(monkeypatch)


@pytest.fixture
def server(authority):
    server = Server(authority)
    yield server
    server.close(patience=0)


@pytest.fixture
def linked(server):
    """A server that relays between a and b, which go on after a loss."""
    server.pair(tolerance=TOLERANT)
    assert not any(server.open().values())
    return server


def payload(sender, k):
    return f"{sender}{k}".encode() * 20_000


def changed(post, rng):
    data = bytearray(post.data)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return [post._replace(data=bytes(data))]


def changed_within(post, rng):
    """A bit of what TLS protects."""
    content = bytearray(post.piece.payload)
    if not content:
        return [post]
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return [with_piece(post, payload=bytes(content))]


def truncated(post, rng):
    return [post._replace(data=post.data[: rng.randrange(len(post.data))])]


def injected(post, rng):
    """Bytes of its own before those of the sender."""
    if post.piece.kind is not PieceKind.PIECE:
        return [post]
    return [with_piece(post, payload=rng.randbytes(40) + bytes(post.piece.payload)), post]


def ended(post, rng):
    return [with_piece(post, kind=PieceKind.END, payload=b""), post]


def forgotten(post, rng):
    return [with_piece(post, kind=PieceKind.GONE, payload=b""), post]


def mirrored(post, rng):
    """What came from one end, to that end."""
    return [post, Post(post.peer, post.sender, post.data)]


def acknowledged(post, rng):
    """As if all had arrived that never did."""
    return [with_piece(post, acknowledged=2**64 - 1)]


MEDDLING = {
    "changes": changed,
    "changes what is sealed": changed_within,
    "drops": lambda post, rng: [],
    "repeats": lambda post, rng: [post] * 3,
    "truncates": truncated,
    "injects": injected,
    "ends": ended,
    "forgets": forgotten,
    "mirrors": mirrored,
    "acknowledges": acknowledged,
}


class Meddler:
    """Does something to every third post, ``times`` times altogether."""

    def __init__(self, how, times=25):
        self._how, self.left, self._rng, self._count = how, times, random.Random(7), 0

    def __call__(self, post):
        self._count += 1
        if self.left and self._count % 3 == 0:
            self.left -= 1
            return self._how(post, self._rng)
        return [post]


@pytest.mark.parametrize("how", MEDDLING)
def test_a_server_that_meddles_breaks_connections_and_no_message(linked, how):
    linked.meddle = meddler = Meddler(MEDDLING[how])
    iterations = itertools.count()
    while meddler.left:
        assert exchange(linked, PAIRS, 1, payload, start=next(iterations)) == []
    assert exchange(linked, PAIRS, 3, payload, start=next(iterations)) == []
    for name in "ab":
        assert set(linked.observers[name].links.values()) == {LinkKind.RELAY}


def test_a_server_that_reorders_all_pieces_loses_nothing(linked):
    late = []

    def meddle(post):
        late.append(post)
        if len(late) < 3:
            return []
        posts, late[:] = late[::-1], []
        return posts

    linked.meddle = meddle
    assert exchange(linked, PAIRS, 10, payload) == []


@pytest.mark.parametrize("how", ["changes what is sealed", "truncates", "injects", "forgets"])
def test_a_server_that_meddles_with_greetings_only_delays(server, how):
    server.pair(tolerance=TOLERANT)
    server.meddle = meddler = Meddler(MEDDLING[how], times=6)
    assert not any(server.open(timeout=30).values())
    while meddler.left:
        assert exchange(server, PAIRS, 1, payload, start=100 + meddler.left) == []
    assert exchange(server, PAIRS, 3, payload) == []


def test_a_server_that_swaps_the_pieces_of_two_pairs_delivers_none_of_them(server):
    server.complete(tolerance=TOLERANT)
    assert not any(server.open().values())
    pairs = [(x, y) for x in "abc" for y in "abc" if x != y]
    assert exchange(server, pairs, 1, payload) == []
    waiting, swapped = {}, []

    def meddle(post):
        """What a says to b is told to c, in the stream from a to c, and the other way round."""
        if post.sender != "a" or post.piece.kind is not PieceKind.PIECE or len(swapped) >= 10:
            return [post]
        waiting[post.peer] = post
        if len(waiting) < 2:
            return []
        to_b, to_c = waiting.pop("b"), waiting.pop("c")
        swapped.append(post)
        return [with_piece(to_b, payload=to_c.piece.payload), with_piece(to_c, payload=to_b.piece.payload)]

    server.meddle = meddle
    assert exchange(server, pairs, 5, payload, start=1) == []
    assert swapped
