"""flaremesh's executors, timed."""

import time

from nvflare.apis.dxo import from_shareable

from bench.jobs.clock import ClockedExchange, ClockedExecutor
from flaremesh.p2p import executors


class Exchange(ClockedExchange, executors.SyncAlgorithmExecutor):
    pass


class Run(ClockedExecutor, executors.AlgorithmExecutor):
    """What `flaremesh run` runs.

    Args:
        floats: under which the figures are kept.
    """

    def __init__(self, floats, **kwargs):
        super().__init__(**kwargs)
        self.floats = floats

    def run_algorithm(self, fl_ctx, shareable, abort_signal):
        # the first tick comes with the first iteration's end
        iterations = from_shareable(shareable).data["iterations"] - 1 - self._warm_up
        self._meter = self.measure(self.floats, iterations, self._warm_up)
        super().run_algorithm(fl_ctx, shareable, abort_signal)

    def _observe(self, run):
        self._meter.tick()

    def evaluation(self, record):
        if "accuracy" in record.metrics:
            self.accuracies.append((time.time(), record.metrics["accuracy"]))
