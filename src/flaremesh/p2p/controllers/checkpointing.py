"""The controller's part in checkpoints: it names iterations for them, and the one from which all go on."""

import math
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flaremesh.metrics.names import RunState
from flaremesh.p2p import attempt
from flaremesh.p2p.attempt import Attempt
from flaremesh.p2p.controllers.failures import Failure
from flaremesh.p2p.extra import positive

_PATIENCE_SECONDS = 600.0  # for who was lost to be back, unless the run says otherwise
_AHEAD_SECONDS = (
    2.0  # for sites to hear of an iteration before any has reached it: they report twice a second
)


class CurrentAttempt:
    """This attempt of a run; where the run ends with its first loss, nothing is kept.

    Args:
        store: of the run; None where it ends with its first loss.
        begun: the attempt as it begins.
    """

    def __init__(self, store: Path | None, begun: Attempt):
        self._store = store
        self._attempt = begun
        self._before = attempt.read(store) if store else None
        self._keep()

    @classmethod
    def begin(
        cls, store: Path | None, job: str, sites: Collection[str], extra: Mapping[str, Any]
    ) -> "CurrentAttempt":
        """The attempt that a job makes at a run of these sites.

        Raises:
            ExtraError: ``extra["patience"]`` is no time, in a run that goes on after a loss.
        """
        patience = positive(extra if store else {}, "patience", _PATIENCE_SECONDS)
        return cls(store, Attempt(job, tuple(sorted(sites)), patience))

    @property
    def is_further(self) -> bool:
        """Whether there was an attempt of the run before this one."""
        return self._before is not None

    @property
    def goes_on(self) -> bool:
        """Whether the run goes on in another attempt after a loss."""
        return self._store is not None

    def begin_at(self, checkpoints: Iterable[tuple[int, ...]]) -> int | None:
        """The newest iteration of which all sites have a checkpoint; None without any.

        Args:
            checkpoints: the iterations of which each site has one.
        """
        have = [set(iterations) for iterations in checkpoints]
        begun_at = max(set().union(*have).intersection(*have), default=0)
        again = self._before is not None and self._before.began_at == begun_at
        fruitless = self._before.fruitless + 1 if self._before and again else 0
        self._attempt = replace(self._attempt, began_at=begun_at, fruitless=fruitless)
        self._keep()
        return begun_at or None

    def end(self, state: RunState, cause: Failure | None) -> bool:
        """Note how it ended; returns whether the run goes on in another attempt."""
        lost = cause.reason if cause and cause.is_loss else None
        self._attempt = replace(self._attempt, state=state, lost=lost)
        self._keep()
        return bool(self._store and lost)

    def _keep(self) -> None:
        if self._store:
            attempt.write(self._store, self._attempt)


class CheckpointClock:
    """Names the iterations of a run's checkpoints by the clock.

    In a synchronous run the state of all sites after the same iteration is a consistent cut, so all that they
    need is a number that none of them has reached yet.

    Args:
        seconds: between checkpoints; None names none.
    """

    def __init__(self, seconds: float | None):
        self._seconds = seconds
        self._time, self._reached = time.monotonic(), 0

    def due(self, reached: int) -> int | None:
        """The iteration whose state all sites are to keep, if it is time for one.

        Args:
            reached: the most iterations that a site has told of.
        """
        now = time.monotonic()
        if self._seconds is None or now - self._time < self._seconds:
            return None
        per_second = (reached - self._reached) / (now - self._time)
        self._time, self._reached = now, reached
        return reached + 1 + math.ceil(_AHEAD_SECONDS * per_second)
