"""Which sites are there for the next attempt of a run."""

import json
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

from flaremesh.p2p.attempt import Attempt
from flaremesh.p2p.nvflare.server import ServerProcess

_MOST_TRIES = 2  # of a site that has logged in, to join: what keeps it out would do so again
_MOST_RANGES = 1000  # of iterations with the same sites: one that comes and goes lets the others go on


class Attendance:
    """Knows which sites are registered, which are free, and which have tried in vain to join a run.

    Args:
        process: the server's.
        ask: what a site answers to the question which jobs run there; None if it answers nothing.
    """

    def __init__(self, process: ServerProcess, ask: Callable[[str], bytes | None]):
        self._process = process
        self._ask = ask
        self._tries: Counter[tuple[str, str, str]] = Counter()

    def missing(self, sites: Collection[str], jobs: Collection[str]) -> list[str]:
        """The sites that are not there, or where one of a run's earlier ``jobs`` has not ended."""
        registered = self._process.sites()
        return sorted(site for site in sites if site not in registered or not self._is_free(site, jobs))

    def back(self, store: Path, last: Attempt) -> list[str]:
        """The sites that a run goes on without and that are back, unless they have tried in vain to join.

        Args:
            store: of the run.
            last: its last attempt.
        """
        if not last.quorum or len(last.members) >= _MOST_RANGES:
            return []
        logins = self._process.sites()
        return [
            site
            for site in last.absent
            if site in logins and self._tries[store.name, site, logins[site]] < _MOST_TRIES
        ]

    def try_to_join(self, store: Path, last: Attempt, jobs: Collection[str]) -> list[str]:
        """Those that are `back` and `missing` nowhere, each of which this takes a try."""
        there = [site for site in self.back(store, last) if self._is_free(site, jobs)]
        logins = self._process.sites()
        self._tries.update((store.name, site, logins.get(site, "")) for site in there)
        return there

    def _is_free(self, site: str, jobs: Collection[str]) -> bool:
        try:
            running = json.loads(self._ask(site) or b"null")
        except (ValueError, RecursionError):
            return False
        return isinstance(running, list) and not any(job in running for job in jobs)
