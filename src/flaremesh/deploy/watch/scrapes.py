"""Pages of metrics as agents serve them, and what two of them say about a run."""

import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from flaremesh.metrics.names import OF_THE_SERVER, AgentMetric, Phase, RunMetric, RunState

_MOST_RUNS = 64  # of one page
_MOST_MISSING = 1000  # sites, of one page
_MOST_CHARACTERS = 256  # of a label
_GREATEST = 1e18  # a count, or seconds
_WORDS: Final[Mapping[str, Collection[str]]] = {"state": tuple(RunState), "phase": tuple(Phase)}
_MEASURED: Final = {
    RunMetric.TRAIN_LOSS,
    RunMetric.VALIDATION_LOSS,
    RunMetric.VALIDATION_ACCURACY,
    RunMetric.CONSENSUS_DISTANCE,
    RunMetric.GRADIENT_NORM,
    RunMetric.INNOVATION_NORM,
    RunMetric.STEP_SIZE,
    RunMetric.PREDICTED_CONTRACTION,
}
"""What a run that diverges makes of any size; all others are counts, moments and durations."""

_METRICS: Final = {
    metric.value.full_name + part: metric
    for metric in (*RunMetric, *AgentMetric)
    for part in (("_count", "_sum") if metric.value.kind == "histogram" else ("",))
}


class Scrape:
    """The metrics that an agent served at one moment, or that the server's agent served for a site.

    Args:
        samples: its metrics, None where it did not answer.
        when: seconds of the monotonic clock.
        problem: why there is no page, if that is known.
    """

    def __init__(self, samples: Iterable[Sample] | None, when: float, problem: str | None = None):
        self.answered = samples is not None
        self.when = when
        self.problem = problem
        self._series: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        self._shared: dict[str, list[Sample]] = {}
        for sample in samples or ():
            site = sample.labels.get("site")
            if site and _METRICS.get(sample.name) not in OF_THE_SERVER:
                own = {label: value for label, value in sample.labels.items() if label != "site"}
                self._shared.setdefault(site, []).append(sample._replace(labels=own))
            else:
                self._series.setdefault(sample.name, []).append((sample.labels, sample.value))

    @classmethod
    def of(cls, page: bytes, when: float) -> "Scrape":
        """The scrape with a page of metrics, as far as they are flaremesh's, whoever served it."""
        try:
            families = text_string_to_metric_families(page.decode())
            return cls([s for family in families for s in family.samples if _is_ours(s)], when)
        except Exception:  # noqa: BLE001  (of many classes, where the page is none)
            return cls(None, when, "what it serves cannot be read as metrics")

    def shared_by(self, site: str) -> "Scrape":
        """The scrape of a site with what the server shows of it."""
        return Scrape(self._shared.get(site), self.when)

    def series(
        self, metric: RunMetric | AgentMetric, suffix: str = "", **labels: str
    ) -> list[tuple[Mapping[str, str], float]]:
        """Labels and value of each series that has these labels; ``suffix`` chooses a part of a histogram."""
        own = self._series.get(metric.value.full_name + suffix, ())
        return [(known, value) for known, value in own if labels.items() <= known.items()]

    def value(self, metric: RunMetric | AgentMetric, suffix: str = "", **labels: str) -> float | None:
        """The value of the series with these labels, None if there is none."""
        return next((value for _, value in self.series(metric, suffix, **labels)), None)

    def runs(self) -> dict[str, Mapping[str, str]]:
        """The labels of each run's information, by its attempt, which has counters of its own."""
        return {labels["attempt"]: labels for labels, _ in islice(self.series(RunMetric.INFO), _MOST_RUNS)}

    def missing(self) -> list[tuple[str, str, float]]:
        """Which run waits for which site, or goes on without it, and since when, as the server tells."""
        told = islice(self.series(AgentMetric.RUN_MISSING_SINCE), _MOST_MISSING)
        return [(labels["run_id"], labels.get("site", ""), since) for labels, since in told]


@dataclass(frozen=True)
class Span:
    """A site's run between two scrapes, which may be the same.

    Attributes:
        first: the earlier scrape.
        last: the later one.
        slot: the label by which the run's series are found.
    """

    first: Scrape
    last: Scrape
    slot: str

    @classmethod
    def of(cls, scrapes: Sequence[Scrape], attempt: str | None) -> "Span | None":
        """The longest one that ends with the last scrape, None if that does not know the attempt."""
        knowing = [scrape for scrape in scrapes if attempt in scrape.runs()]
        if attempt is None or not knowing or knowing[-1] is not scrapes[-1]:
            return None
        return cls(knowing[0], knowing[-1], knowing[-1].runs()[attempt]["slot"])

    @property
    def iterations(self) -> float:
        """How many iterations ended in between."""
        return self.increase(RunMetric.ITERATIONS)

    @property
    def seconds(self) -> float:
        """Seconds from the last iteration before the first scrape to the last one before the second.

        They are taken from the site's own clock, since a page may be a second old when it is scraped.
        """
        return self.increase(RunMetric.LAST_ITERATION)

    def value(self, metric: RunMetric, suffix: str = "") -> float | None:
        """The value in the later scrape."""
        return self.last.value(metric, suffix, slot=self.slot)

    def before(self, metric: RunMetric) -> float | None:
        """The value in the earlier scrape."""
        return self.first.value(metric, slot=self.slot)

    def current(self, metric: RunMetric) -> list[Mapping[str, str]]:
        """Labels of the series that are not 0."""
        return [labels for labels, value in self.last.series(metric, slot=self.slot) if value]

    def increase(self, metric: RunMetric) -> float:
        """How much the value grew."""
        return (self.value(metric) or 0.0) - (self.before(metric) or 0.0)

    def increases(self, metric: RunMetric, label: str, suffix: str = "") -> dict[str, float]:
        """How much the values grew, by a label.

        Where no iteration ended in between, they count from the beginning of the run.
        """
        now, then = (
            {labels[label]: value for labels, value in scrape.series(metric, suffix, slot=self.slot)}
            for scrape in (self.last, self.first)
        )
        return {key: value - (then.get(key, 0.0) if self.iterations else 0.0) for key, value in now.items()}

    def per_second(self, metric: RunMetric) -> float:
        """How fast a counter of each neighbour grows, all neighbours together."""
        if not self.iterations or not self.seconds:
            return 0.0
        return sum(self.increases(metric, "peer").values()) / self.seconds

    def pace(self) -> float:
        """Iterations per second.

        Where none ended in between, the mean since the run began, for as long as an iteration of twice the
        mean length may still be under way; 0 after that.
        """
        if self.iterations and self.seconds:
            return self.iterations / self.seconds
        done, total = (self.value(RunMetric.ITERATION_SECONDS, part) for part in ("_count", "_sum"))
        if not done or not total:
            return 0.0
        quiet = time.time() - (self.value(RunMetric.LAST_ITERATION) or 0.0)
        return done / total if quiet < 2 * total / done else 0.0


def _is_ours(sample: Sample) -> bool:
    """Whether it is one of flaremesh's metrics, with their labels, printable, and a value that can be one."""
    metric = _METRICS.get(sample.name)
    if metric is None:
        return False
    slot = {"slot"} if isinstance(metric, RunMetric) else set()
    return (
        slot.union(metric.value.labels) - {"site"} == sample.labels.keys() - {"site"}
        and all(len(v) <= _MOST_CHARACTERS and v.isprintable() for v in sample.labels.values())
        and all(sample.labels[label] in words for label, words in _WORDS.items() if label in sample.labels)
        and (metric in _MEASURED or (math.isfinite(sample.value) and 0 <= sample.value <= _GREATEST))
    )
