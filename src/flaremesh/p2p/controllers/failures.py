"""Why a run fails: of all that its sites tell, the failure that caused the others."""

import time
from typing import NamedTuple

_TIMEOUTS_SECONDS = 1.0  # within so long of the first, all sites that wait in vain have given up


class Failure(NamedTuple):
    """A failure of a site.

    Attributes:
        reason: names the site and the cause.
        iteration: in which the site waited for its neighbours in vain; None for another failure.
        is_loss: something was lost on the way, and the run could go on from where it was.
        time: by ``time.monotonic``.
    """

    reason: str
    iteration: int | None
    is_loss: bool
    time: float


class Failures:
    """The failures of a run, as they come in.

    Args:
        sites: number of sites of the run.
    """

    def __init__(self, sites: int):
        self._sites = sites
        self._all: list[Failure] = []

    def __len__(self) -> int:
        return len(self._all)

    def add(self, reason: str, iteration: int | None = None, *, is_loss: bool = False) -> None:
        """Note one; who waited in vain has lost a neighbour."""
        is_loss = is_loss or iteration is not None
        self._all.append(Failure(reason, iteration, is_loss, time.monotonic()))

    @property
    def cause(self) -> Failure | None:
        """The first that is no vain wait, or the earliest vain wait; None without any.

        One silent site soon makes all others wait for each other.
        """
        if not self._all:
            return None
        return min(self._all, key=lambda failure: (failure.iteration is not None, failure.iteration or 0))

    @property
    def settled(self) -> Failure | None:
        """The cause, once no failure that is still to come could be it instead."""
        if self._all and (
            any(failure.iteration is None for failure in self._all)
            or len(self._all) == self._sites
            or time.monotonic() - self._all[0].time > _TIMEOUTS_SECONDS
        ):
            return self.cause
        return None
