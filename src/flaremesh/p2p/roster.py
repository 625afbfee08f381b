"""The sites of a run as its controller knows them, from their own words."""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any, Final

from flaremesh.p2p.outcome import SITE_RESULT, SiteResult
from flaremesh.p2p.progress import SITE_PROGRESS, SiteProgress
from flaremesh.printable import printable
from flaremesh.record import MOST_CHARACTERS, RecordError

_log = logging.getLogger(__name__)

MOST_BYTES: Final = 1 << 20
"""So long may a report of a site's progress be."""


class Roster:
    """The latest progress of every site, and its result once it has replied with one.

    A site may tell anything. What is not of the right form, or names others than the run's sites, is dropped,
    and logged once per site and kind.

    Args:
        sites: names of the run's sites.
        planned: how many iterations it has; 0 where nobody knows.

    Attributes:
        sites: names of the run's sites.
        progress: of every site that has reported some.
        ended: sites that have replied.
        algorithm: name of what they ran; None where no site said it.
    """

    def __init__(self, sites: Collection[str], planned: int = 0) -> None:
        self.progress: dict[str, SiteProgress] = {}
        self.ended: set[str] = set()
        self.algorithm: str | None = None
        self.sites = frozenset(sites)
        self._planned = planned
        self._results: dict[str, SiteResult] = {}
        self._dropped: set[tuple[str, str]] = set()

    def hear(self, site: str, data: bytes) -> str | None:
        """Take in a site's progress; returns why its code ends the run, where that is news."""
        if site not in self.sites:
            return None
        before = self.latest(site)
        try:
            now = SITE_PROGRESS.read(data, f"what {site} tells", MOST_BYTES)
            self._require_sites(site, now.links, [now.waits_for] if now.waits_for else [])
        except RecordError as error:
            self._drop(site, "progress", str(error))
            return None
        panic = before.panic or now.panic
        self.progress[site] = replace(now, iteration=self._reached(site, now.iteration), panic=panic)
        return None if before.panic else panic

    def end(self, site: str, reply: Mapping[str, Any]) -> None:
        """Take in the reply of a site that has ended; that of an executor of another family is no result.

        Raises:
            RecordError: its result cannot be read.
        """
        if "iterations" in reply:
            result = SITE_RESULT.of(reply, f"what {site} replies")
            self._require_sites(site, result.links, result.sent_bytes, result.received_bytes)
            self._results[site] = replace(result, iterations=self._reached(site, result.iterations))
            if isinstance(algorithm := reply.get("algorithm"), str):
                self.algorithm = printable(algorithm, MOST_CHARACTERS)
        self.ended.add(site)

    def latest(self, site: str) -> SiteProgress:
        """How far a site was when it last reported."""
        return self.progress.get(site, SiteProgress())

    def result(self, site: str) -> SiteResult:
        """What a site replied, or else what it reported last."""
        seen = self.latest(site)
        return self._results.get(site) or SiteResult(iterations=seen.iteration, metrics=seen.metrics)

    def _require_sites(self, site: str, *names: Iterable[str]) -> None:
        if not self.sites.issuperset(chain(*names)):
            raise RecordError(f"what {site} tells names others than the sites of the run.")

    def _reached(self, site: str, iteration: int) -> int:
        """An iteration that the run has; ported code may count on, and a site may tell any number."""
        if self._planned and iteration > self._planned:
            self._drop(site, "iteration", f"the run has {self._planned} iterations, and {site} tells of more")
            return self._planned
        return iteration

    def _drop(self, site: str, kind: str, why: str) -> None:
        if (site, kind) not in self._dropped:
            self._dropped.add((site, kind))
            _log.warning("dropped, now and from now on without a word: %s", why)
