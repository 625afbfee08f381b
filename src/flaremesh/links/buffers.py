"""Large buffers that are used again: page faults of fresh memory would take longer than copying into it."""

import sys
import threading
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Buffer: TypeAlias = NDArray[np.uint8]

_KEPT = 8  # unused buffers that are kept; per neighbour, one is filled while another is mixed


def _allocate(length: int) -> Buffer:
    return np.empty(length, dtype=np.uint8)


def _references_without_a_user() -> int:
    """The reference count that a loop over a list sees of a buffer that only the list holds.

    Measured, because it differs between versions of Python.
    """
    (count,) = [sys.getrefcount(buffer) for buffer in [_allocate(1)]]
    return count


_UNUSED = _references_without_a_user()


class BufferPool:
    """Hands out buffers, and hands one out again once nothing refers to it any more.

    Args:
        allocate: makes a buffer of a length in bytes.
    """

    def __init__(self, allocate: Callable[[int], Buffer] = _allocate):
        self._allocate = allocate
        self._buffers: list[Buffer] = []
        self._lock = threading.Lock()

    def take(self, length: int) -> Buffer:
        """A buffer (length,) of whatever content, in use as long as it or any view of it lives."""
        with self._lock:
            unused = 0
            for buffer in self._buffers:
                # every view of an array, numpy's, torch's or a memoryview, holds a reference to it
                if sys.getrefcount(buffer) == _UNUSED:
                    if len(buffer) == length:
                        return buffer
                    unused += 1
            if unused >= _KEPT:
                self._buffers = [b for b in self._buffers if sys.getrefcount(b) > _UNUSED]
            buffer = self._allocate(length)
            self._buffers.append(buffer)
            return buffer
