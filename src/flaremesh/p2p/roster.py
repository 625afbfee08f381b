"""The sites of a run as its controller knows them."""

from collections.abc import Mapping
from typing import Any

from flaremesh.p2p.outcome import SITE_RESULT, SiteResult
from flaremesh.p2p.progress import SITE_PROGRESS, SiteProgress


class Roster:
    """The latest progress of every site, and its result once it has replied with one.

    Attributes:
        progress: of every site that has reported some.
        ended: sites that have replied.
        algorithm: name of what they ran; None where no site said it.
    """

    def __init__(self) -> None:
        self.progress: dict[str, SiteProgress] = {}
        self.ended: set[str] = set()
        self.algorithm: str | None = None
        self._results: dict[str, SiteResult] = {}

    def hear(self, site: str, data: bytes) -> str | None:
        """Take in a site's progress; returns why its code ends the run, where that is news.

        Raises:
            RecordError: it cannot be read; the earlier progress stays.
        """
        before, now = self.latest(site), SITE_PROGRESS.read(data, f"what {site} tells")
        self.progress[site] = now
        return now.panic if before.panic is None else None

    def end(self, site: str, reply: Mapping[str, Any]) -> None:
        """Take in the reply of a site that has ended; that of an executor of another family is no result.

        Raises:
            RecordError: its result cannot be read.
        """
        if "iterations" in reply:
            self._results[site] = SITE_RESULT.of(reply, f"what {site} replies")
            if isinstance(algorithm := reply.get("algorithm"), str):
                self.algorithm = algorithm
        self.ended.add(site)

    def latest(self, site: str) -> SiteProgress:
        """How far a site was when it last reported."""
        return self.progress.get(site, SiteProgress())

    def result(self, site: str) -> SiteResult:
        """What a site replied, or else what it reported last."""
        seen = self.latest(site)
        return self._results.get(site) or SiteResult(iterations=seen.iteration, metrics=seen.metrics)
