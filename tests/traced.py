"""What memory a call takes."""

import tracemalloc
from collections.abc import Callable


def peak_bytes(call: Callable[[], object]) -> int:
    """The most bytes that Python holds at once during ``call``.

    It is the least of three calls: what the threads of earlier tests allocate meanwhile is traced, too.
    """

    def traced() -> int:
        tracemalloc.start()
        try:
            call()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return min(traced() for _ in range(3))
