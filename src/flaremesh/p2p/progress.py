"""How far a site is, told to the server twice a second while it runs."""

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from flaremesh.links import Cancelled
from flaremesh.metrics.sink import Evaluation, Iteration, Norms

_PERIOD_SECONDS = 0.5


class ProgressReporter:
    """A MetricsSink that keeps the latest figures and posts them from its own thread.

    Args:
        post: sends bytes to the server; may lose them.
        links: what carries the messages to each out-neighbour, as it is at any time.
        cancelled: the run was aborted; told as ``stopped`` at once, even where the site's code goes on.
    """

    def __init__(self, post: Callable[[bytes], None], links: Mapping[str, str], cancelled: Cancelled):
        self._post = post
        self._links = links
        self._cancelled = cancelled
        self._latest: dict[str, Any] = {"iteration": 0}
        self._news = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._report, name="progress", daemon=True)
        self._thread.start()

    def reached(self, iteration: int) -> None:
        """So many iterations are done, of an algorithm that tells nothing else."""
        self._update({"iteration": iteration})

    def iteration(self, record: Iteration) -> None:
        """See MetricsSink.iteration."""
        figures = {
            "iteration": record.iteration,
            "consensus_distance": record.consensus_distance,
            "seconds_per_iteration": record.seconds,
        }
        if record.loss is not None:
            figures["train_loss"] = record.loss
        self._update(figures)

    def evaluation(self, record: Evaluation) -> None:
        """See MetricsSink.evaluation."""
        self._update(record.metrics)

    def norms(self, record: Norms) -> None:
        """Not told."""

    def waits_for(self, site: str | None) -> None:
        """Before the first iteration this site waits for another one, or no longer does."""
        self._update({"waits_for": site})

    def panic(self, reason: str) -> None:
        """The site's code ends the run; told at once, because its process may end now."""
        self._update({"panic": reason})
        self._tell()

    def stop(self) -> None:
        """Tell the last figures and end; ``stopped`` lets the server tell an aborted site from a dead one."""
        self._update({"stopped": True})
        self._stopped.set()
        self._thread.join()

    def _update(self, figures: Mapping[str, Any]) -> None:
        self._latest = {**self._latest, **figures}  # replaced whole: the thread reads it without a lock
        self._news.set()

    def _report(self) -> None:
        while True:
            if self._news.wait(_PERIOD_SECONDS):
                self._news.clear()
                self._tell()
            elif self._cancelled():
                self._update({"stopped": True})
            if self._stopped.wait(_PERIOD_SECONDS):
                self._tell()
                return

    def _tell(self) -> None:
        self._post(json.dumps(self._latest | {"links": dict(self._links)}).encode())
