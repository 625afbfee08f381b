"""flaremesh's executors, timed."""

import json
import time

import torch
from nvflare.apis.dxo import from_shareable

from bench.jobs.clock import ClockedExchange, ClockedExecutor
from flaremesh import algorithms
from flaremesh.p2p import executors
from flaremesh.p2p.outcome import RUN_FOLDER
from flaremesh.privacy import pairs
from flaremesh.runtime.aggregated import AggregatedExchanges
from flaremesh.runtime.exchanges import Exchanges
from flaremesh.topology.schema import Mixing, Wire

TURNS = "turns.json"
"""File that Alternating leaves at each site."""


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


class Alternating(ClockedExecutor, executors.SyncAlgorithmExecutor):
    """Mixes a vector with the neighbours', without and with secure aggregation in turns.

    Leaves the seconds of each turn in its run folder, and the bytes that were sent.

    Args:
        floats: length of the vector.
        rounds: how often both take their turn.
    """

    def __init__(self, floats, rounds):
        super().__init__()
        self.floats, self.rounds = floats, rounds

    def run_algorithm(self, fl_ctx, shareable, abort_signal):
        member, schedule = self._flaremesh.member, self.config.schedule
        x = torch.rand(self.floats)
        like = ([algorithms.Exchange()], x, None, schedule, member.link, Wire(), self.peer_timeout, Mixing())
        secrets = pairs.agree(member.link, schedule, self.peer_timeout)
        both = [Exchanges(*like), AggregatedExchanges(secrets, *like)]
        turns = []
        for number, exchanges in enumerate(both * self.rounds):
            sent, begun = sum(member.traffic.sent_bytes.values()), time.perf_counter()
            if isinstance(exchanges, AggregatedExchanges):
                for _ in exchanges.agree(number, 0, (x,)):
                    pass
            exchanges.publish(number, 0, (x,))
            mixture, _ = exchanges.mix(number, 0)
            seconds = time.perf_counter() - begun
            (x,) = mixture.vectors
            turns.append([seconds, sum(member.traffic.sent_bytes.values()) - sent])
        (member.folder / RUN_FOLDER).mkdir(parents=True, exist_ok=True)
        (member.folder / RUN_FOLDER / TURNS).write_text(json.dumps(turns))
