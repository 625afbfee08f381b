"""What a server can make a site hold with streams that it begins, and with the pieces of one."""

import gc
import time
import tracemalloc

import psutil
import pytest
from streams import MIB, beginning, connect, hasten, piece, relay_threads, until

from flaremesh.links.carriers.stream import PieceKind


@pytest.fixture
def quick(monkeypatch):
    hasten(monkeypatch)


@pytest.mark.parametrize(
    ("pieces", "most"),
    [
        pytest.param(lambda k: piece(b"x", k + 2), 12 * MIB, id="ahead of a gap"),
        pytest.param(lambda k: piece(b"x", k + 1), 12 * MIB, id="that nobody reads"),
        pytest.param(lambda k: piece(b"", k + 2, kind=PieceKind.END), 12 * MIB, id="ends of all places"),
        pytest.param(lambda k: piece(bytes(2000), k + 2), 20 * MIB, id="that overlap"),
        pytest.param(lambda k: piece(bytes(MIB >> 4), 1 + k * (MIB >> 4)), 20 * MIB, id="long ones"),
    ],
)
def test_the_pieces_that_a_stream_keeps_take_bounded_memory_and_time(network, pieces, most):
    network.bring("a", "b", beginning())
    started = time.monotonic()
    tracemalloc.start()
    try:
        for k in range(40_000):
            network.bring("a", "b", pieces(k))
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    (stream,) = network.accepted("a")
    stream.close()
    assert held < most
    assert time.monotonic() - started < 100
    network.bring("a", "b", piece(b"", kind=PieceKind.GONE))


def test_thousands_of_streams_take_few_sockets_and_threads(network, ends):
    """In a neighbour's name, with and without somebody who takes them."""
    process = psutil.Process()
    descriptors = process.num_fds()
    most = 0
    for number in range(5000):
        network.bring("a", "b", beginning(number.to_bytes(8, "little")))
        if number % 50 == 0:
            taken = network.accepted("a")
            most = max(most, relay_threads())
            assert process.num_fds() - descriptors < 200
            for stream in taken:
                stream.close()
    assert most <= 8
    assert network.observers["a"].refusals["b", "overload"] > 4000
    assert connect(network, ends)


def test_an_honest_stream_begins_although_thousands_have(network, quick, ends):
    for number in range(2000):
        network.bring("b", "a", beginning(number.to_bytes(8, "little")))
    for stream in network.accepted("b"):
        stream.close()
    connect(network, ends)


def test_a_carrier_with_many_streams_is_closed_in_time(network, ends):
    network.meddle = lambda post: []
    nears = [network.carriers["a"].dial("b", 1) for _ in range(20)]
    for near in nears:
        near.sendall(bytes(MIB))
        near.close()
    started = time.monotonic()
    network.carriers["a"].close()
    assert time.monotonic() - started < 4
    assert until(lambda: relay_threads() == 0)
