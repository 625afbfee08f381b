"""A run's metrics for Prometheus: kept by the run's process, shown by its site's exporter.

The loop only adds to numbers. Once a second a thread makes a page of them, in a directory that the exporter
reads: however many iterations a second a run does, being watched costs it next to nothing.
"""

import logging
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from typing_extensions import override

from flaremesh import atomic
from flaremesh.metrics import slots
from flaremesh.metrics.names import DURATION_BUCKETS, Phase, RunMetric, RunState
from flaremesh.metrics.sink import (
    Evaluation,
    Iteration,
    Logged,
    MetricsSink,
    Norms,
    Spending,
    Traffic,
    Written,
)
from flaremesh.topology.links import Carried
from flaremesh.topology.neighborhood import Neighborhood

_log = logging.getLogger(__name__)

DIRECTORY_VARIABLE: Final = "FLAREMESH_METRICS_DIR"
"""Environment variable with the directory that a site's exporter and the processes of its runs share."""

PAGE_SECONDS: Final = 1.0
"""Seconds between the pages that a run's process writes for the scraper."""

_MOST_PAGE_BYTES = 8 << 20
_EVALUATED = {"loss": RunMetric.VALIDATION_LOSS, "accuracy": RunMetric.VALIDATION_ACCURACY}


class PrometheusSink(Collector, MetricsSink):
    """What happens in one run at one site, as metrics that a Prometheus can scrape.

    Its values can be scraped where DIRECTORY_VARIABLE names a directory, and stay in the process otherwise.
    The last page outlives it until another run takes the slot.

    Args:
        run_id: the run.
        algorithm, topology: their names.
        iterations: how many are asked for.
        schedule: the site's neighbourhood in each phase.
        traffic: what its links count.
        step_size: the algorithm's, None where it has none.
        predicted_contraction: factor of the consensus distance per iteration of mixing, None if unknown.
        attempt: which attempt of the run; None where that has the run's id, as the first one has.

    Attributes:
        checkpoints: what becomes of the run's; None where it has none.
        clips: by in-neighbour, the shares that were clipped away.
        spending: of the run's privacy budget; None where it has none.
        ranks: how many ranks of the run's script run; None where it has no script, or none has begun.
    """

    def __init__(
        self,
        run_id: str,
        algorithm: str,
        topology: str,
        iterations: int,
        schedule: Sequence[Neighborhood],
        traffic: Traffic,
        step_size: float | None = None,
        predicted_contraction: float | None = None,
        attempt: str | None = None,
    ):
        directory = os.environ.get(DIRECTORY_VARIABLE)
        self._slot = slots.claim(Path(directory)) if directory else 0
        self._run = (run_id, attempt or run_id, algorithm, topology)
        self._weights = _mean_weights(schedule)
        self._targets = {peer for hood in schedule for peer in hood.out}
        self._traffic = traffic
        self.checkpoints: Written | None = None
        self.clips: Mapping[str, float] = {}
        self.spending: Spending | None = None
        self.ranks: Callable[[], int | None] = lambda: None

        self._state = RunState.CONFIGURING
        self._iterations = self._non_finite = 0
        self._last_iteration = time.time()
        self._record: Iteration | None = None
        self._seconds = _Durations()
        self._phases = {phase: _Durations() for phase in Phase}
        self._compute, self._send, self._wait, self._mix, self._evaluate = self._phases.values()
        self._gauges: dict[RunMetric, float | None] = {
            RunMetric.MAX_ITERATIONS: iterations,
            RunMetric.NEIGHBORS: len(self._weights),
            RunMetric.STEP_SIZE: step_size,
            RunMetric.PREDICTED_CONTRACTION: predicted_contraction,
        }
        self._writer = _Writer(self, _page(Path(directory), self._slot)) if directory else None

    def state(self, state: RunState) -> None:
        """The run has come to ``state``; nothing follows one that has ended."""
        self._state = state
        if self._writer:
            self._writer.write()
            if state.ended:
                self._writer.stop()

    def reached(self, iteration: int) -> None:
        """``iteration`` iterations have ended, of which nothing else is known."""
        self._iterations = iteration
        self._last_iteration = time.time()

    @override
    def iteration(self, record: Iteration) -> None:
        self.reached(record.iteration)
        self._record = record
        self._seconds.add(record.seconds)
        self._compute.add(record.gradient_seconds)
        self._send.add(record.send_seconds)
        self._wait.add(record.wait_seconds)
        self._mix.add(record.mix_seconds)
        if not record.finite:
            self._non_finite += 1

    @override
    def evaluation(self, record: Evaluation) -> None:
        self._evaluate.add(record.seconds)
        for name, value in record.metrics.items():
            if name in _EVALUATED:
                self._gauges[_EVALUATED[name]] = value

    @override
    def logged(self, record: Logged) -> None:
        """Not exported: a script may choose any names."""

    @override
    def norms(self, record: Norms) -> None:
        self._gauges[RunMetric.GRADIENT_NORM] = record.gradient
        self._gauges[RunMetric.INNOVATION_NORM] = record.innovation

    def collect(self) -> Iterator[Family]:
        """The metrics with their present values."""
        yield self._family(RunMetric.INFO, {self._run: 1})
        yield self._family(RunMetric.STATE, {(state,): state is self._state for state in RunState})
        yield self._family(RunMetric.ITERATIONS, {(): self._iterations})
        yield self._family(RunMetric.LAST_ITERATION, {(): self._last_iteration})
        yield self._family(RunMetric.NON_FINITE, {(): self._non_finite})
        record = self._record
        gauges = self._gauges | {
            RunMetric.CURRENT_ITERATION: self._iterations,
            RunMetric.CONSENSUS_DISTANCE: record.consensus_distance if record else None,
            RunMetric.TRAIN_LOSS: record.loss if record else None,
            RunMetric.LAST_CHECKPOINT: self.checkpoints.written_at if self.checkpoints else None,
            RunMetric.SCRIPT_RANKS: self.ranks(),
            RunMetric.FAILED_CHECKPOINTS: self.checkpoints.failures if self.checkpoints else None,
            RunMetric.EPSILON_SPENT: self.spending.epsilon if self.spending else None,
            RunMetric.EPSILON_BUDGET: self.spending.most_epsilon if self.spending else None,
        }
        # a figure that nobody has measured yet is not 0
        for metric, value in gauges.items():
            if value is not None:
                yield self._family(metric, {(): value})
        yield self._histogram(RunMetric.ITERATION_SECONDS, {(): self._seconds})
        yield self._histogram(RunMetric.PHASE_SECONDS, {(phase,): d for phase, d in self._phases.items()})
        yield self._by_peer(RunMetric.MIXING_WEIGHT, self._weights, self._weights)
        yield self._by_peer(RunMetric.CLIPPED, self._weights, self.clips)
        traffic = self._traffic
        yield self._by_peer(RunMetric.NEIGHBOR_WAIT, self._weights, traffic.waits)
        yield self._by_peer(RunMetric.EXCHANGE_ATTEMPTS, self._targets, traffic.sent_messages)
        yield self._by_peer(RunMetric.SENT_BYTES, self._targets, traffic.sent_bytes)
        yield self._by_peer(RunMetric.RECEIVED_BYTES, self._weights, traffic.received_bytes)
        yield self._family(RunMetric.EXCHANGE_FAILURES, dict(traffic.refusals))
        yield self._family(RunMetric.CARRIER_CHANGES, dict(traffic.changes))
        links = dict(traffic.links)
        yield self._family(
            RunMetric.LINK,
            {(peer, word): word == used for peer, used in links.items() for word in Carried},
        )
        yield self._family(
            RunMetric.WORSE_LINK, {(peer,): is_worse for peer, is_worse in dict(traffic.worse).items()}
        )

    def _by_peer(self, metric: RunMetric, peers: Iterable[str], values: Mapping[str, float]) -> Family:
        """The metric of every peer, 0 where there is no value yet."""
        return self._family(metric, {(peer,): values.get(peer, 0) for peer in peers})

    def _family(self, metric: RunMetric, values: Mapping[Any, float]) -> Family:
        name, text, labels = _described(metric)
        family = (CounterMetricFamily if metric.value.kind == "counter" else GaugeMetricFamily)(
            name, text, labels=labels
        )
        for label_values, value in values.items():
            family.add_metric([str(self._slot), *label_values], value)
        return family

    def _histogram(self, metric: RunMetric, values: Mapping[tuple[str, ...], "_Durations"]) -> Family:
        name, text, labels = _described(metric)
        family = HistogramMetricFamily(name, text, labels=labels)
        for label_values, durations in values.items():
            family.add_metric([str(self._slot), *label_values], durations.buckets(), durations.sum)
        return family


class RunMetrics(Collector):
    """The metrics of all runs of a site, present and past.

    Args:
        directory: what DIRECTORY_VARIABLE names in the runs' processes.
    """

    def __init__(self, directory: Path):
        self._directory = directory
        self._damaged: set[str] = set()

    def collect(self) -> Iterable[Family]:
        """The pages of all runs; one whose process ended without telling its end is shown as failed."""
        families: dict[str, Family] = {}
        for page in sorted(self._directory.glob(_page(Path(), "*").name)):
            for family in self._read(page):
                known = families.setdefault(family.name, family)
                if known is not family:
                    known.samples.extend(family.samples)
        if states := families.get(RunMetric.STATE.value.full_name):
            self._settle(states)
        return families.values()

    def _read(self, page: Path) -> list[Family]:
        """What a page says; nothing if it is none, for the code of a job may write there."""
        try:
            if page.stat().st_size > _MOST_PAGE_BYTES:
                raise ValueError("it is too long")
            families = list(text_string_to_metric_families(page.read_text(encoding="utf-8")))
            for family in families:
                for sample in family.samples:
                    int(sample.labels["slot"])
                    if family.name == RunMetric.STATE.value.full_name:
                        RunState(sample.labels["state"])
        except FileNotFoundError:  # the directory is emptied when the site starts
            return []
        except Exception as error:  # noqa: BLE001  (the parser's errors are of many classes)
            if page.name not in self._damaged:
                self._damaged.add(page.name)
                _log.warning("%s is no page of metrics (%s): it is left out", page.name, type(error).__name__)
            return []
        return families

    def _settle(self, family: Family) -> None:
        current = {
            sample.labels["slot"]: RunState(sample.labels["state"])
            for sample in family.samples
            if sample.value
        }
        dead = {
            slot
            for slot, state in current.items()
            if not state.ended and not slots.is_held(self._directory, int(slot))
        }
        family.samples = [
            sample._replace(value=float(sample.labels["state"] == RunState.FAILED))
            if sample.labels["slot"] in dead
            else sample
            for sample in family.samples
        ]


class _Durations:
    """A histogram over DURATION_BUCKETS.

    Attributes:
        sum: seconds.
    """

    def __init__(self) -> None:
        self.sum = 0.0
        self._counts = [0] * (len(DURATION_BUCKETS) + 1)

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(DURATION_BUCKETS, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound in seconds, number of durations up to it), as Prometheus writes histograms."""
        total, buckets = 0, []
        for bound, count in zip((*DURATION_BUCKETS, float("inf")), self._counts, strict=True):
            total += count
            buckets.append((floatToGoString(bound), float(total)))
        return buckets


class _Writer:
    """Puts a page of what a collector knows into a file, once a second."""

    def __init__(self, collector: Collector, file: Path):
        self._registry = CollectorRegistry(support_collectors_without_names=True)
        self._registry.register(collector)
        self._file = file
        self._writing = threading.Lock()
        self._stopped = threading.Event()
        self.write()
        self._thread = threading.Thread(target=self._keep_writing, name="metrics", daemon=True)
        self._thread.start()

    def write(self) -> None:
        with self._writing, suppress(OSError):  # e.g. no room: the next page may find some
            atomic.write(self._file, generate_latest(self._registry))

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _keep_writing(self) -> None:
        while not self._stopped.wait(PAGE_SECONDS):
            self.write()


def _page(directory: Path, slot: int | str) -> Path:
    return directory / f"slot-{slot}.prom"


def _described(metric: RunMetric) -> tuple[str, str, list[str]]:
    return metric.value.full_name, metric.value.help, ["slot", *metric.value.labels]


def _mean_weights(schedule: Sequence[Neighborhood]) -> dict[str, float]:
    peers = {peer for hood in schedule for peer in hood.in_weights}
    return {
        peer: sum(hood.in_weights.get(peer, 0.0) for hood in schedule) / len(schedule)
        for peer in sorted(peers)
    }
