"""Mixins that time a controller or an executor of either package."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.meter import Meter
from flaremesh.p2p.outcome import RUN_FOLDER

CLOCK = "clock.json"
"""File in a job's run folder, at each site and at the server: Unix times of its phases, and figures."""


def _write(fl_ctx, document):
    folder = Path(fl_ctx.get_workspace().get_run_dir(fl_ctx.get_job_id())) / RUN_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CLOCK).write_text(json.dumps(document))


_Beside: Any = object
"""The class of a package with which these are mixed: what super() calls is there."""


class ClockedController(_Beside):
    def control_flow(self, abort_signal, fl_ctx):
        begun = time.time()
        try:
            super().control_flow(abort_signal, fl_ctx)
        finally:
            _write(fl_ctx, {"control_flow": [begun, time.time()]})


class ClockedExecutor(_Beside):
    """Leaves the times of a site in its run folder, whatever the outcome.

    Args:
        warm_up, others: see Meter; the CPU of the other processes is the first site's.

    Attributes:
        meters: by number of floats.
        accuracies: (Unix time, accuracy) of every evaluation.
    """

    def __init__(self, warm_up=0, others=(), **kwargs):
        super().__init__(**kwargs)
        self._warm_up, self._others = warm_up, others
        self.meters = {}
        self.accuracies = []
        self._tasks = {}

    def measure(self, floats, iterations, warm_up):
        """A new meter."""
        others = self._others if self.client_name.endswith("-1") else ()
        self.meters[floats] = meter = Meter(warm_up, iterations, others)
        return meter

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        begun = time.time()
        try:
            return super().execute(task_name, shareable, fl_ctx, abort_signal)
        finally:
            self._tasks[str(task_name)] = [begun, time.time()]
            _write(
                fl_ctx,
                {
                    "tasks": self._tasks,
                    "figures": {floats: meter.figures() for floats, meter in self.meters.items()},
                    "accuracies": self.accuracies,
                },
            )


class ClockedExchange(ClockedExecutor):
    """Exchanges float32 arrays of several lengths and mixes them.

    Args:
        rounds: Round as dicts, the shorter first.
    """

    def __init__(self, rounds, others=()):
        super().__init__(others=others)
        self.rounds = rounds

    def run_algorithm(self, fl_ctx, shareable, abort_signal):
        iteration = 0
        for each in self.rounds:
            meter = self.measure(each["floats"], each["iterations"], each["warm_up"])
            value = np.full(each["floats"], iteration, dtype=np.float32)
            meter.tick()
            for _ in range(each["warm_up"] + each["iterations"]):
                self._exchange_values(fl_ctx, value, iteration)
                received = self.neighbors_values.pop(iteration)
                mixed = value * np.float32(self._weight)
                for neighbor in self.neighbors:
                    mixed += received[neighbor.id] * np.float32(neighbor.weight)
                value = mixed
                iteration += 1
                meter.tick()
