"""Streams through a server that loses, repeats and reorders, and what it can make a site hold."""

import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from streams import (
    MIB,
    NUMBER,
    Faults,
    Network,
    beginning,
    connect,
    hasten,
    piece,
    read,
    relay_threads,
    until,
)

from flaremesh.links.carriers import stream as streams
from flaremesh.links.carriers.stream import HEADER_BYTES, Piece, PieceKind, pack, unpack


@pytest.fixture
def quick(monkeypatch):
    hasten(monkeypatch)


@pytest.fixture
def linked(network, ends):
    """Both ends of a stream from a to b, which has carried a byte."""
    return connect(network, ends)


def is_over(stream):
    """Whether a stream that brings nothing ends, also where not all that was written was sent."""
    try:
        return not stream.recv(1)
    except ConnectionResetError:
        return True


# what arrives


FAULTS = [
    {},
    {"meddle": Faults(lose=0.2, seed=1)},
    {"meddle": Faults(repeat=0.5, seed=2)},
    {"meddle": Faults(delay=0.3, seed=3)},
    {"meddle": Faults(lose=0.1, repeat=0.2, delay=0.2, seed=4)},
]


@pytest.mark.parametrize("network", FAULTS, indirect=True)
@pytest.mark.parametrize("length", [7, 100_000, (9 << 20) + 5])
def test_both_directions_bring_the_same_bytes_in_the_same_order(network, quick, ends, length):
    contents = [random.Random(seed).randbytes(length) for seed in (1, 2)]
    pair = connect(network, ends)
    with ThreadPoolExecutor(4) as pool:
        for stream, content in zip(pair, contents, strict=True):
            pool.submit(stream.sendall, content)
        arrived = list(pool.map(lambda stream: read(stream, length), reversed(pair)))
    assert arrived == contents


@pytest.mark.parametrize("network", FAULTS, indirect=True)
def test_many_small_writes_stay_in_order(network, quick, ends):
    near, far = connect(network, ends)
    done = 0
    for number in range(300):
        near.sendall(b"%3d" % number)
        if number % 10 == 0:  # so that several are under way
            assert read(far, 3 * (number - done)) == b"".join(b"%3d" % k for k in range(done, number))
            done = number


def test_a_first_piece_that_nobody_heard_is_soon_repeated(network, ends):
    network.meddle = lambda post: [] if len(network.seen) == 1 else [post]
    started = time.monotonic()
    connect(network, ends)
    assert time.monotonic() - started < 2


def test_a_first_piece_that_came_after_the_second_loses_nothing(network, quick, ends):
    connect(network, ends)
    stream = network.seen[0].piece.stream[::-1]
    network.bring("b", "a", piece(b"first", 1, stream))
    network.bring("b", "a", beginning(stream))
    network.bring("b", "a", piece(b"second", 6, stream))
    network.bring("b", "a", piece(b"first", 1, stream))
    far = ends(network.accept("b")[0])
    far.settimeout(15)
    assert read(far, 11) == b"firstsecond"


def test_a_piece_of_which_a_part_came_before_is_made_whole(network, ends):
    network.bring("a", "b", beginning())
    network.bring("a", "b", piece(b"some", 1))
    network.bring("a", "b", piece(b"something", 1))
    network.bring("a", "b", piece(b"!", 10))
    stream = ends(network.accept("a")[0])
    stream.settimeout(15)
    assert read(stream, 10) == b"something!"


def test_a_stream_that_is_never_acknowledged_breaks(network, quick, monkeypatch, linked):
    near, _ = linked
    monkeypatch.setattr(streams, "_GONE_SECONDS", 0.5)
    network.meddle = lambda post: [] if post.piece.kind is PieceKind.PIECE else [post]
    near.sendall(b"x")
    assert is_over(near)


def test_a_stream_that_nobody_answers_is_not_flooded(network, ends):
    network.meddle = lambda post: []
    near = ends(network.carriers["a"].dial("b", 3))
    near.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            near.send(bytes(MIB))
    assert until(lambda: sum(len(post.data) for post in network.seen) > 7 * MIB)
    assert not until(lambda: len({post.piece.offset for post in network.seen}) > 40, 0.5)


def test_two_streams_between_the_same_sites_are_told_apart(network, ends):
    pairs = [connect(network, ends) for _ in range(3)]
    for number, (near, _) in enumerate(pairs):
        near.sendall(bytes([number]) * 1000)
    for number, (_, far) in enumerate(pairs):
        assert read(far, 1000) == bytes([number]) * 1000


# the end


@pytest.mark.parametrize("network", FAULTS, indirect=True)
def test_an_end_comes_after_all_that_was_written_and_ends_one_direction_alone(network, quick, ends):
    near, far = connect(network, ends)
    near.sendall(bytes(3 * MIB))
    near.shutdown(socket.SHUT_WR)
    assert read(far, 3 * MIB) == bytes(3 * MIB)
    assert far.recv(1) == b""
    far.sendall(b"answer")
    far.shutdown(socket.SHUT_WR)
    assert read(near, 6) == b"answer"
    assert near.recv(1) == b""


@pytest.mark.parametrize("network", FAULTS, indirect=True)
def test_nothing_is_left_of_a_stream_whose_ends_have_been_closed(network, quick, ends):
    near, far = connect(network, ends)
    near.close()
    assert far.recv(1) == b""
    far.close()
    assert until(lambda: relay_threads() == 0)


def test_an_end_that_is_closed_while_the_other_one_writes_ends_that_one(network, quick, linked):
    near, far = linked
    far.close()
    with suppress(ConnectionError):
        while True:
            near.sendall(bytes(1000))
    near.close()
    assert until(lambda: relay_threads() == 0)


def test_a_stream_whose_other_end_is_never_heard_again_ends_soon_after_its_near_end(network, linked):
    near, _ = linked
    network.meddle = lambda post: []
    near.sendall(bytes(MIB))
    near.close()
    started = time.monotonic()
    network.carriers["a"].close()
    assert time.monotonic() - started < 4


def test_a_site_that_has_lost_a_stream_says_so_when_it_is_written_to(network, quick, linked):
    near, far = linked
    network.meddle = lambda post: [] if post.sender == "b" else [post]  # how it ended does not arrive
    far.close()
    assert until(lambda: relay_threads() == 1)
    network.meddle = lambda post: [post]
    near.sendall(b"more")
    assert is_over(near)


def test_late_repeats_of_a_stream_that_has_ended_begin_none(network, quick, linked):
    near, far = linked
    near.close()
    far.close()
    assert until(lambda: relay_threads() == 0)
    for sender, peer, data in list(network.seen):
        network.bring(peer, sender, data)
    assert relay_threads() == 0
    assert not network.accepted("a")
    assert not network.accepted("b")


def test_a_carrier_that_is_closed_makes_no_stream(network, linked):
    near, _ = linked
    near.close()
    network.carriers["a"].close()
    with pytest.raises(ConnectionError, match="closed"):
        network.carriers["a"].dial("b", 1)
    network.bring("a", "b", beginning())
    assert not network.accepted("a")


# who leads dials, by a carrier that knows its neighbours


def test_the_end_that_leads_dials_and_the_other_one_never_does(network):
    carrier = network.carriers["a"]
    assert carrier.head_start("b", leads=True) == 0
    assert carrier.head_start("b", leads=False) is None
    assert carrier.inability("b") is None
    assert carrier.inability("c") == "its kit does not let it be relayed"


# what no honest site sends


@pytest.mark.parametrize(
    ("sender", "data", "reason"),
    [
        ("b", b"", "malformed"),
        ("b", b"x" * 200, "malformed"),
        ("b", piece()[: HEADER_BYTES - 1], "malformed"),
        ("b", piece(b""), "malformed"),
        ("b", piece(kind=PieceKind.ACK), "malformed"),
        ("b", piece(kind=PieceKind.END), "malformed"),
        ("b", piece(kind=PieceKind.GONE), "malformed"),
        ("b", piece(kind=PieceKind.BEGIN), "malformed"),
        ("b", piece(kind=5), "malformed"),
        ("c", beginning(), "stranger"),
    ],
)
def test_what_is_no_piece_of_a_neighbour_is_refused_and_counted(network, sender, data, reason):
    network.bring("a", sender, data)
    assert network.observers["a"].refusals == {(sender, reason): 1}
    assert relay_threads() == 0


@pytest.mark.parametrize(
    "data",
    [
        piece(),
        piece(offset=5),
        piece(b"", 1, kind=PieceKind.BEGIN),
        piece(b"", kind=PieceKind.END),
        piece(b"", kind=PieceKind.ACK, acknowledged=2**64 - 1),
        piece(b"", kind=PieceKind.GONE),
    ],
)
def test_a_piece_of_a_stream_that_never_began_has_no_effect(network, data):
    network.bring("a", "b", data)
    assert relay_threads() == 0
    assert not network.seen
    assert not network.observers["a"].refusals


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.builds(
            Piece,
            st.sampled_from(PieceKind),
            st.sampled_from([NUMBER, b"abcdefgh"]),
            st.integers(0, 9) | st.integers(0, 2**64 - 1),
            st.integers(0, 9) | st.integers(0, 2**64 - 1),
            st.binary(max_size=9),
        ).map(lambda each: each if each.kind is PieceKind.PIECE else each._replace(payload=b"")),
        max_size=12,
    )
)
def test_whatever_is_brought_the_carrier_lives_and_ends_in_time(monkeypatch, pieces):
    monkeypatch.setattr(streams, "_LINGER_SECONDS", 0.2)
    network = Network()
    network.carrier("a", "b")
    try:
        network.bring("a", "b", beginning())
        for each in pieces:
            network.bring("a", "b", pack(each))
    finally:
        started = time.monotonic()
        for stream in network.accepted("a"):
            stream.close()
        network.close()
        assert time.monotonic() - started < 5
    assert until(lambda: relay_threads() == 0)


def test_nothing_comes_after_the_end_of_a_stream(network, quick, ends):
    network.bring("a", "b", beginning())
    network.bring("a", "b", piece(b"all", 1))
    stream = ends(network.accept("a")[0])
    network.bring("a", "b", piece(b"late", 5))
    network.bring("a", "b", piece(b"", 4, kind=PieceKind.END))
    network.bring("a", "b", piece(b"later", 5))
    stream.settimeout(15)
    assert read(stream, 3) == b"all"
    assert stream.recv(9) == b""


# what is packed


@given(
    st.sampled_from([PieceKind.ACK, PieceKind.END, PieceKind.BEGIN, PieceKind.GONE]),
    st.binary(min_size=8, max_size=8),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
)
def test_pieces_are_read_as_they_were_written(kind, number, offset, acknowledged):
    each = Piece(kind, number, offset, acknowledged, b"")
    assert unpack(pack(each)) == each


@given(st.binary(max_size=99))
def test_other_bytes_are_no_piece(data):
    assert unpack(data) is None or data.startswith(b"FMST")
