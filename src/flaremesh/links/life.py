"""Whether a late neighbour lives: the signs that it gives, and how long a run waits for who gives them.

In a run that goes on after a loss, each end of an edge tells the other one every few seconds that the site's
run goes on in its process. A process that has ended or stopped tells nothing. One whose user code runs for
ever seems alive: that is what ``straggler`` is for.
"""

import math
import time
from typing import Final, NamedTuple

from flaremesh.links.frame import FrameError
from flaremesh.links.link import Refusal

SIGN_SECONDS: Final = 3.0
"""Between two signs of life on an edge."""

SILENT_SECONDS: Final = 4 * SIGN_SECONDS
"""An edge without any for so long is dialled again, beside its connection."""

_LEAST_SECONDS = SIGN_SECONDS / 4  # a neighbour may give one in so long
_BURST = 64  # and so many at once, since what comes late may come at once


class Tolerance(NamedTuple):
    """How a run that goes on after a loss bears with neighbours that are late, and edges that are cut.

    Attributes:
        redial: seconds for which an edge that is cut is dialled again.
        straggler: seconds to wait for a neighbour that is alive.
    """

    redial: float
    straggler: float = math.inf


class Signs:
    """The signs of life of one neighbour, which may give so many and no more."""

    def __init__(self) -> None:
        self._due = 0.0  # when all of them would have come at the permitted rate

    def take(self) -> None:
        """Note one; raises FrameError where it is one too many."""
        now = time.monotonic()
        if self._due - now > _BURST * _LEAST_SECONDS:
            raise FrameError(Refusal.OVERLOAD)
        self._due = max(self._due, now) + _LEAST_SECONDS
