"""How far a run is: sites report it to the server twice a second, and the server to the admin on request."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final

from typing_extensions import override

from flaremesh.links import Cancelled
from flaremesh.metrics.names import RunState
from flaremesh.metrics.sink import Evaluation, Iteration, Logged, Metrics, MetricsSink, Norms
from flaremesh.p2p.outcome import Links, RunResult
from flaremesh.record import Name, Schema, Seconds, Text, Whole, at_most
from flaremesh.topology.schema import MOST_SITES

_PERIOD_SECONDS = 0.5


@dataclass(frozen=True)
class SiteProgress:
    """How far one site is.

    Attributes:
        iteration: how many iterations it has finished.
        consensus_distance: of its last iteration, as in Iteration; None before the first.
        seconds_per_iteration: of its last iteration, wall clock; None before the first.
        metrics: of its last evaluation, by name.
        links: how the messages to each out-neighbour travel, in the words of Carried.
        waits_for: the site that it waits for before its first iteration.
        panic: why code of the site ends the run.
        checkpoint: the iteration of the last checkpoint that it has written in this attempt, 0 before.
        stopped: it has left the run in order; a site that is gone and never said so was killed.
    """

    iteration: Whole = 0
    consensus_distance: float | None = None
    seconds_per_iteration: Seconds | None = None
    metrics: Metrics = field(default_factory=dict)
    links: Links = field(default_factory=dict)
    waits_for: Name | None = None
    panic: Text | None = None
    checkpoint: Whole = 0
    stopped: bool = False


@dataclass(frozen=True)
class RunProgress:
    """How far a run is.

    Attributes:
        state: where its controller is.
        sites: the latest report of every site that has sent one.
        result: None before the end.
        missing: the sites without which the run goes on, and since which iteration.
    """

    state: RunState
    sites: Annotated[Mapping[Name, SiteProgress], at_most(MOST_SITES)] = field(default_factory=dict)
    result: RunResult | None = None
    missing: Annotated[Mapping[Name, Whole], at_most(MOST_SITES)] = field(default_factory=dict)


SITE_PROGRESS: Final = Schema[SiteProgress](SiteProgress, "the progress of a site")
RUN_PROGRESS: Final = Schema[RunProgress](RunProgress, "the progress of a run")


class ProgressReporter(MetricsSink):
    """Keeps the latest figures of a site and posts them from a thread of its own.

    Args:
        post: sends bytes to the server; may lose them.
        links: what carries the messages to each out-neighbour, as it is at any time.
        cancelled: whether the run was aborted; then ``stopped`` is reported at once, even where the site's
            code goes on.
    """

    def __init__(self, post: Callable[[bytes], None], links: Mapping[str, str], cancelled: Cancelled):
        self._post = post
        self._links = links
        self._cancelled = cancelled
        self._latest = SiteProgress()
        self._record: Iteration | None = None
        self._checkpoint = 0
        self._news = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._report, name="progress", daemon=True)
        self._thread.start()

    def reached(self, iteration: int) -> None:
        """Report the number of iterations done, where the algorithm reports nothing else."""
        self._update(iteration=iteration)

    @override
    def iteration(self, record: Iteration) -> None:
        self._record = record  # of most of them nobody is told
        if not self._news.is_set():
            self._news.set()

    @override
    def evaluation(self, record: Evaluation) -> None:
        self._update(metrics=record.metrics)

    @override
    def logged(self, record: Logged) -> None:
        """Not reported before the run's end."""

    @override
    def norms(self, record: Norms) -> None:
        """Not reported."""

    def waits_for(self, site: str | None) -> None:
        """Before the first iteration this site waits for another one, or no longer does."""
        self._update(waits_for=site)

    def checkpointed(self, iteration: int) -> None:
        """A checkpoint is written; any thread may say so."""
        self._checkpoint = iteration
        self._news.set()

    def panic(self, reason: str) -> None:
        """The site's code ends the run; reported at once, because its process may end now."""
        self._update(panic=reason)
        self._tell()

    def stop(self) -> None:
        """Tell the last figures and end; with ``stopped`` the server knows that the process did not die."""
        self._update(stopped=True)
        self._stopped.set()
        self._thread.join()

    def _update(self, **figures: Any) -> None:
        self._latest = replace(self._latest, **figures)  # replaced whole: the thread reads it without a lock
        self._news.set()

    def _report(self) -> None:
        while True:
            if self._news.wait(_PERIOD_SECONDS):
                self._news.clear()
                self._tell()
            elif self._cancelled():
                self._update(stopped=True)
            if self._stopped.wait(_PERIOD_SECONDS):
                self._tell()
                return

    def _tell(self) -> None:
        figures: dict[str, Any] = {"links": dict(self._links), "checkpoint": self._checkpoint}
        if (record := self._record) is not None:
            figures["iteration"] = record.iteration
            figures["consensus_distance"] = record.consensus_distance
            figures["seconds_per_iteration"] = record.seconds
        latest = replace(self._latest, **figures)
        self._post(SITE_PROGRESS.json(latest).encode())
