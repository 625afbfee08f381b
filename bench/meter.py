"""What one site's process spends on its loop: the same meter in every system that is compared."""

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil


class Meter:
    """Wall clock of every iteration, CPU of all of them, and how far the memory rose.

    Build it before anything of the loop is allocated, and call ``tick`` before the first iteration or after
    it, and after every further one.

    Args:
        warm_up: iterations from the first tick on that do not count.
        iterations: that count.
        others: ids of further processes whose CPU counts, e.g. of a server that relays.
    """

    def __init__(self, warm_up: int, iterations: int, others: Sequence[int] = ()):
        self._warm_up, self._last = warm_up, warm_up + iterations
        self._others = [psutil.Process(pid) for pid in others]
        self._ticks: list[float] = []
        self._cpu: list[float] = []
        self._peak = 0
        Path("/proc/self/clear_refs").write_text("5")  # lets the peak start anew
        self._base = _memory("VmRSS")

    def tick(self) -> None:
        self._ticks.append(time.perf_counter())
        count = len(self._ticks) - 1
        if count in (self._warm_up, self._last):
            self._cpu.append(time.process_time() + sum(map(_cpu_seconds, self._others)))
        if count == self._last:
            self._peak = _memory("VmHWM")

    def figures(self) -> dict[str, Any]:
        """Seconds of each iteration, CPU seconds of all threads, bytes of memory above those of the start."""
        ticks = self._ticks[self._warm_up : self._last + 1]
        return {
            "seconds": [after - before for before, after in itertools.pairwise(ticks)],
            "cpu_seconds": self._cpu[1] - self._cpu[0] if len(self._cpu) == 2 else None,
            "peak_bytes": max(0, self._peak - self._base) if self._peak else None,
        }


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _memory(field: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    (kibibytes,) = (line.split()[1] for line in status if line.startswith(f"{field}:"))
    return 1024 * int(kibibytes)
