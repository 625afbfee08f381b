"""Metrics that sites let the server show, for a Prometheus that cannot reach the sites.

A message is JSON: a list of points, each a metric's name, its labels, and a value or a histogram's cumulative
counts and sum. pydantic reads that 28 times as fast as prometheus_client reads pages, and takes nothing else.
"""

import json
import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Annotated, Final, NamedTuple, TypeAlias

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString
from pydantic import Field, TypeAdapter, ValidationError

from flaremesh.errors import first_mistake
from flaremesh.metrics.names import DURATION_BUCKETS, SHAREABLE, AgentMetric, Metric, RunMetric
from flaremesh.p2p.agents.agent import gauge

_log = logging.getLogger(__name__)

SHARE_VARIABLE: Final = "FLAREMESH_SHARE_METRICS"
"""Environment variable of a site: the metrics of the kit's list that it may share, separated by commas."""

OFF: Final = "off"
"""Value of SHARE_VARIABLE with which nothing leaves the site."""

PERIOD_SECONDS: Final = 15.0
FRESH_SECONDS: Final = 60.0
"""Seconds for which the server shows what a site sent last."""

_MAX_BYTES = 1 << 20
_MOST_CHARACTERS = 256  # of a label
_MAX_SERIES = 5000  # of one site: four runs with a hundred neighbours have that many

_BOUNDS = [floatToGoString(bound) for bound in (*DURATION_BUCKETS, math.inf)]

_Point: TypeAlias = tuple[str, dict[str, str], Annotated[list[float], Field(max_length=len(_BOUNDS) + 1)]]

_POINTS = TypeAdapter(Annotated[list[_Point], Field(max_length=_MAX_SERIES)])


def permitted(listed: Collection[str], admin: str | None) -> set[str]:
    """Names of the metrics that may leave a site.

    Args:
        listed: those of the site's kit.
        admin: what SHARE_VARIABLE says; it narrows the kit's list, and None leaves it as it is.
    """
    if admin is None:
        return set(listed)
    named = {name.strip() for name in admin.split(",")} - {""}
    if strange := sorted(named.difference(listed, [OFF])):
        _log.warning("not shared, because the site's kit does not list it: %s", ", ".join(strange))
    return named.intersection(listed)


class Sharing:
    """Sends a site's metrics, from a thread of its own.

    Args:
        collectors: of all the site's metrics.
        names: of those that may leave the site.
        send: takes a message to the server; it may lose it.
    """

    def __init__(
        self, collectors: Sequence[Collector], names: Collection[str], send: Callable[[bytes], None]
    ):
        self._collectors = collectors
        self._names = {
            _family_name(metric.value): name for name, metric in SHAREABLE.items() if name in names
        }
        self._send = send
        self._news = threading.Event()
        threading.Thread(target=self._keep_sending, name="sharing", daemon=True).start()

    def soon(self) -> None:
        """Send without waiting for the end of the period."""
        self._news.set()

    def _keep_sending(self) -> None:
        well = True
        while True:
            self._news.clear()
            try:
                self._send(self._message())
                well = True
            except (OSError, ValueError) as error:  # e.g. the certificate is being replaced
                if well:
                    _log.warning("no metrics are shared for now: %s", error)
                well = False
            self._news.wait(PERIOD_SECONDS)

    def _message(self) -> bytes:
        points = [
            point
            for collector in self._collectors
            for family in collector.collect()
            if family.name in self._names
            for point in _points(self._names[family.name], family)
        ]
        message = json.dumps(points).encode()
        _check(_series(points), _MAX_SERIES, "series")
        _check(len(message), _MAX_BYTES, "bytes")
        return message


class SharedMetrics(Collector):
    """The server's own metrics and, with the label ``site``, those that sites sent.

    Whatever arrives, what is shown is a valid page: names, labels and types are those of metrics.names.

    Args:
        own: the server's.
    """

    def __init__(self, own: Sequence[Collector]):
        self._own = own
        self._latest: dict[str, _Shared] = {}
        self._complained: set[str] = set()

    def take(self, site: str, message: bytes) -> None:
        """Show what a site sent instead of what it sent before.

        Args:
            site: its sender, which the server has authenticated.
            message: of Sharing.
        """
        try:
            _check(len(message), _MAX_BYTES, "bytes")
            points = _POINTS.validate_json(message)
            _check(_series(points), _MAX_SERIES, "series")
        except ValueError as error:
            self._complain(site, first_mistake(error) if isinstance(error, ValidationError) else error)
            return
        taken = {}
        for name, labels, values in points:
            if _is_ours(name, labels, values):
                taken[name, *sorted(labels.items())] = SHAREABLE[name].value, labels | {"site": site}, values
            else:
                self._complain(site, f"there is no metric {name}{labels} {values}")
        self._latest[site] = _Shared(list(taken.values()), time.time(), time.monotonic())

    def collect(self) -> Iterator[Family]:
        """Each family once, with the series of all."""
        families = {family.name: family for collector in self._own for family in collector.collect()}
        times = gauge(AgentMetric.SHARED)
        now = time.monotonic()
        for site, shared in sorted(self._latest.items()):
            times.add_metric([site], shared.time)
            if now - shared.arrival > FRESH_SECONDS:
                continue
            for metric, labels, values in shared.points:
                name = _family_name(metric)
                if name not in families:
                    families[name] = Family(name, metric.help, metric.kind)
                families[name].samples.extend(_samples(metric, labels, values))
        yield times
        yield from families.values()

    def _complain(self, site: str, problem: object) -> None:
        """Log a problem once per site, which may go on sending such messages."""
        if site not in self._complained:
            self._complained.add(site)
            _log.warning("not all that %s shares is shown: %.300r", site, str(problem))


class _Shared(NamedTuple):
    """What a site sent last, and when: as Unix time, and by the monotonic clock."""

    points: list[tuple[Metric, dict[str, str], list[float]]]
    time: float
    arrival: float


def _family_name(metric: Metric) -> str:
    return metric.full_name.removesuffix("_total")


def _series(points: Sequence[_Point]) -> int:
    return sum(len(values) for _, _, values in points)


def _check(count: int, most: int, what: str) -> None:
    if count > most:
        raise ValueError(f"{count} {what}, and the server takes {most}: share fewer metrics")


def _points(name: str, family: Family) -> Iterator[_Point]:
    values: defaultdict[tuple[tuple[str, str], ...], list[float]] = defaultdict(list)
    for sample in family.samples:
        if sample.name != f"{family.name}_count":  # which the last bucket says too
            values[tuple(label for label in sample.labels.items() if label[0] != "le")].append(sample.value)
    for labels, numbers in values.items():
        yield name, dict(labels), numbers


def _samples(metric: Metric, labels: dict[str, str], values: Sequence[float]) -> Iterator[Sample]:
    name = metric.full_name
    if metric.kind != "histogram":
        yield Sample(name, labels, values[0])
        return
    *counts, total = values
    for bound, count in zip(_BOUNDS, counts, strict=True):
        yield Sample(f"{name}_bucket", labels | {"le": bound}, count)
    yield Sample(f"{name}_count", labels, counts[-1])
    yield Sample(f"{name}_sum", labels, total)


def _is_ours(name: str, labels: Mapping[str, str], values: Sequence[float]) -> bool:
    if name not in SHAREABLE:
        return False
    metric = SHAREABLE[name].value
    slot = {"slot"} if isinstance(SHAREABLE[name], RunMetric) else set()
    counts = values[:-1]
    return (
        labels.keys() == slot.union(metric.labels)
        and all(len(value) <= _MOST_CHARACTERS and value.isprintable() for value in labels.values())
        and len(values) == (len(_BOUNDS) + 1 if metric.kind == "histogram" else 1)
        and (metric.kind == "gauge" or all(0 <= value < math.inf for value in values))
        and counts == sorted(map(math.floor, counts))
    )
