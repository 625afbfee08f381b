"""When a buffer is handed out again."""

import pytest
import torch

from flaremesh.links.buffers import BufferPool


def address(buffer):
    return buffer.__array_interface__["data"][0]


def test_a_buffer_is_used_again_once_nobody_refers_to_it():
    pool = BufferPool()
    first = pool.take(1000)
    place = address(first)
    del first
    assert address(pool.take(1000)) == place


@pytest.mark.parametrize(
    "view_of",
    [
        lambda buffer: buffer[5:],
        lambda buffer: buffer[5:][1:].view("u2"),
        lambda buffer: memoryview(buffer)[10:],
        lambda buffer: torch.from_numpy(buffer)[4:],
        lambda buffer: torch.frombuffer(buffer.data, dtype=torch.uint8)[3:].view(torch.int8),
        lambda buffer: buffer.data.cast("B").toreadonly(),
    ],
    ids=["slice", "slice of a slice", "memoryview", "tensor", "tensor of a memoryview", "readonly"],
)
def test_a_view_keeps_its_buffer_in_use(view_of):
    pool = BufferPool()
    buffer = pool.take(1003 + 1)
    place = address(buffer)
    view = view_of(buffer)
    del buffer
    assert address(pool.take(1004)) != place
    del view
    assert place in [address(other) for other in [pool.take(1004), pool.take(1004)]]


def test_two_takers_never_share_a_buffer():
    pool = BufferPool()
    taken = [pool.take(64) for _ in range(10)]
    assert len({address(buffer) for buffer in taken}) == 10


def test_a_buffer_of_another_length_is_not_handed_out():
    pool = BufferPool()
    pool.take(10)
    assert len(pool.take(20)) == 20


def test_buffers_of_lengths_that_are_no_longer_asked_for_are_freed():
    allocated = []
    pool = BufferPool(
        lambda length: allocated.append(length) or torch.empty(length, dtype=torch.uint8).numpy()
    )
    for length in range(1, 100):
        pool.take(length)
    pool.take(1)
    assert allocated.count(1) == 2
