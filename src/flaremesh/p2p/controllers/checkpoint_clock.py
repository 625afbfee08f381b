"""The clock by which the controller names iterations for checkpoints."""

import math
import time

_AHEAD_SECONDS = (
    2.0  # for sites to hear of an iteration before any has reached it: they report twice a second
)


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
