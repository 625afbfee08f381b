"""Mixins that time a controller or an executor of either package."""

import json
import time
from pathlib import Path

import numpy as np

from flaremesh.p2p.outcome import RUN_FOLDER

CLOCK = "clock.json"
"""File in a job's run folder, at each site and at the server: Unix times of its phases, and seconds."""


def _write(fl_ctx, document):
    folder = Path(fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_job_id())) / RUN_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CLOCK).write_text(json.dumps(document))


class ClockedController:
    def control_flow(self, abort_signal, fl_ctx):
        begun = time.time()
        try:
            super().control_flow(abort_signal, fl_ctx)
        finally:
            _write(fl_ctx, {"control_flow": [begun, time.time()]})


class ClockedExecutor:
    """Leaves the times of a site in its run folder, whatever the outcome.

    Attributes:
        seconds: of each iteration, by number of floats.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seconds = {}
        self._tasks = {}

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        begun = time.time()
        try:
            return super().execute(task_name, shareable, fl_ctx, abort_signal)
        finally:
            self._tasks[str(task_name)] = [begun, time.time()]
            _write(fl_ctx, {**self._tasks, "seconds": self.seconds})


class ClockedExchange(ClockedExecutor):
    """Exchanges float32 arrays of several sizes and mixes them.

    Args:
        rounds: [floats, iterations] of each size.
    """

    def __init__(self, rounds):
        super().__init__()
        self.rounds = rounds

    def run_algorithm(self, fl_ctx, shareable, abort_signal):
        iteration = 0
        for floats, iterations in self.rounds:
            value = np.full(floats, iteration, dtype=np.float32)
            seconds = self.seconds[floats] = []
            for _ in range(iterations):
                started = time.perf_counter()
                self._exchange_values(fl_ctx, value, iteration)
                received = self.neighbors_values.pop(iteration)
                mixed = value * np.float32(self._weight)
                for neighbor in self.neighbors:
                    mixed += received[neighbor.id] * np.float32(neighbor.weight)
                value = mixed
                iteration += 1
                seconds.append(time.perf_counter() - started)


class ClockedConsensus(ClockedExecutor):
    """Times a package's own consensus, from one iteration to the next."""

    def __init__(self):
        super().__init__()
        self._last = None

    def tick(self):
        """To be called once an iteration."""
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.setdefault(1, []).append(now - self._last)
        self._last = now
