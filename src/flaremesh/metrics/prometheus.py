"""A run's metrics for Prometheus: written by the run's process, read by its site's exporter."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from flaremesh.metrics import slots
from flaremesh.metrics.names import DURATION_BUCKETS, LINK_KINDS, RunMetric, RunState
from flaremesh.metrics.sink import Evaluation, Iteration
from flaremesh.topology.neighborhood import Neighborhood

DIRECTORY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable with the directory that a site's exporter and the processes of its runs share."""

_STRANGER = ""
_EVALUATED = {"loss": RunMetric.VALIDATION_LOSS, "accuracy": RunMetric.VALIDATION_ACCURACY}


class PrometheusSink:
    """MetricsSink and LinkObserver of one run at one site.

    Its values can be scraped where DIRECTORY_VARIABLE names a directory, and stay in the process otherwise.
    They outlive it until another run takes the slot: then gauges start anew and counters go on.

    Args:
        run_id: the run.
        algorithm, topology: their names.
        iterations: how many are asked for.
        schedule: the site's neighbourhood in each phase.
    """

    def __init__(
        self, run_id: str, algorithm: str, topology: str, iterations: int, schedule: Sequence[Neighborhood]
    ):
        self._slot = _claim()
        registry = CollectorRegistry()
        self._metrics = {metric: _create(metric, registry) for metric in RunMetric}
        weights = _mean_weights(schedule)
        targets = {peer for hood in schedule for peer in hood.out}

        self._bind(RunMetric.INFO, run_id, algorithm, topology).set(1)
        self._states = {state: self._bind(RunMetric.STATE, state) for state in RunState}
        self._bind(RunMetric.MAX_ITERATIONS).set(iterations)
        self._bind(RunMetric.NEIGHBORS).set(len(weights))
        for peer, weight in weights.items():
            self._bind(RunMetric.MIXING_WEIGHT, peer).set(weight)

        # bound once: looking a child up costs more than changing it
        self._iterations = self._bind(RunMetric.ITERATIONS)
        self._current_iteration = self._bind(RunMetric.CURRENT_ITERATION)
        self._last_iteration = self._bind(RunMetric.LAST_ITERATION)
        self._iteration_seconds = self._bind(RunMetric.ITERATION_SECONDS)
        self._compute_seconds = self._bind(RunMetric.PHASE_SECONDS, "compute")
        self._wait_seconds = self._bind(RunMetric.PHASE_SECONDS, "wait")
        self._non_finite = self._bind(RunMetric.NON_FINITE)
        self._attempts = {peer: self._bind(RunMetric.EXCHANGE_ATTEMPTS, peer) for peer in targets}
        self._sent_bytes = {peer: self._bind(RunMetric.SENT_BYTES, peer) for peer in targets}
        self._received_bytes = {peer: self._bind(RunMetric.RECEIVED_BYTES, peer) for peer in weights}
        self._peers = targets | weights.keys()
        self._figures: dict[RunMetric, Gauge] = {}
        self._last_iteration.set(time.time())
        self.state(RunState.CONFIGURING)

    def state(self, state: RunState) -> None:
        """The run has come to ``state``."""
        for other, gauge in self._states.items():
            gauge.set(other is state)

    def iteration(self, record: Iteration) -> None:
        """See MetricsSink.iteration."""
        self._iterations.inc()
        self._current_iteration.set(record.iteration)
        self._last_iteration.set(time.time())
        self._iteration_seconds.observe(record.seconds)
        self._compute_seconds.observe(record.gradient_seconds)
        self._wait_seconds.observe(record.wait_seconds)
        self._show(RunMetric.CONSENSUS_DISTANCE, record.consensus_distance)
        if record.loss is not None:
            self._show(RunMetric.TRAIN_LOSS, record.loss)
        if not record.finite:
            self._non_finite.inc()

    def evaluation(self, record: Evaluation) -> None:
        """See MetricsSink.evaluation."""
        for name, value in record.metrics.items():
            if name in _EVALUATED:
                self._show(_EVALUATED[name], value)

    def sent(self, peer: str, payload_bytes: int) -> None:
        """See LinkObserver.sent."""
        self._attempts[peer].inc()
        self._sent_bytes[peer].inc(payload_bytes)

    def received(self, peer: str, payload_bytes: int) -> None:
        """See LinkObserver.received."""
        self._received_bytes[peer].inc(payload_bytes)

    def refused(self, peer: str, reason: str) -> None:
        """See LinkObserver.refused."""
        # whoever is no neighbour chose its own name: it must not become a series
        self._bind(RunMetric.EXCHANGE_FAILURES, peer if peer in self._peers else _STRANGER, reason).inc()

    def linked(self, peer: str, kind: str) -> None:
        """See LinkObserver.linked."""
        for other in LINK_KINDS:
            self._bind(RunMetric.LINK, peer, other).set(other == kind)

    def _bind(self, metric: RunMetric, *labels: str) -> Any:
        return self._metrics[metric].labels(str(self._slot), *labels)

    def _show(self, metric: RunMetric, value: float) -> None:
        # a gauge shows 0 from the moment it is bound: a loss that nobody measured
        if metric not in self._figures:
            self._figures[metric] = self._bind(metric)
        self._figures[metric].set(value)


class RunMetrics(Collector):
    """The metrics of all runs of a site, present and past.

    Args:
        directory: what DIRECTORY_VARIABLE names in the runs' processes.
    """

    def __init__(self, directory: Path):
        self._directory = directory

    def collect(self) -> Iterable[Family]:
        """Read all files; a run whose process died without a word has failed."""
        for family in MultiProcessCollector.merge(list(self._files())):
            if family.name == RunMetric.STATE.value.full_name:
                self._settle(family)
            yield family

    def _files(self) -> Iterator[str]:
        for file in self._directory.glob("*.db"):
            with suppress(FileNotFoundError):  # a run that takes a slot over removes its gauges
                if file.stat().st_size > 0:  # it is empty for the moment in which a process makes it
                    yield str(file)

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


def _claim() -> int:
    directory = os.environ.get(DIRECTORY_VARIABLE)
    if directory is None:
        return 0
    slot = slots.claim(Path(directory))
    # removes the gauges of the run that held the slot before, its run_info among them
    mark_process_dead(slot, directory)
    # the class of every value that prometheus_client makes from here on
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: slot)
    return slot


def _create(metric: RunMetric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    name, text, labels = metric.value.full_name, metric.value.help, ("slot", *metric.value.labels)
    match metric.value.kind:
        case "counter":
            return Counter(name, text, labels, registry=registry)
        case "gauge":
            # "live" lets mark_process_dead remove them; one process writes a series, so the sum is its value
            return Gauge(name, text, labels, registry=registry, multiprocess_mode="livesum")
        case "histogram":
            return Histogram(name, text, labels, registry=registry, buckets=DURATION_BUCKETS)


def _mean_weights(schedule: Sequence[Neighborhood]) -> dict[str, float]:
    peers = {peer for hood in schedule for peer in hood.in_weights}
    return {
        peer: sum(hood.in_weights.get(peer, 0.0) for hood in schedule) / len(schedule)
        for peer in sorted(peers)
    }
