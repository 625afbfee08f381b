"""The clock by which the controller tells sites when to take checkpoints."""

import math
import time

from flaremesh.runtime.cuts import Cuts

_AHEAD_SECONDS = (
    2.0  # for sites to hear of an iteration before any has reached it: they report twice a second
)


class CheckpointClock:
    """Tells the iterations of a run's checkpoints by the clock.

    In a synchronous run the state of all sites after the same iteration is a consistent cut, so all that they
    need is a number that none of them has reached yet, and how many iterations later the next ones come: as
    many as a period takes. So they need no further word, and no server that could give it.

    Args:
        seconds: between checkpoints; None tells none.
    """

    def __init__(self, seconds: float | None):
        self._seconds = seconds
        self._time, self._reached = time.monotonic(), 0
        self._cuts: Cuts | None = None

    def due(self, least: int, most: int) -> Cuts | None:
        """What all sites are to be told, if a period is over: most times what they were told before.

        Args:
            least: the fewest iterations that a site has told of.
            most: the most.
        """
        now = time.monotonic()
        if self._seconds is None or now - self._time < self._seconds:
            return None
        done = max(0, most - self._reached)
        per_second = done / (now - self._time)
        self._time, self._reached = now, most
        every = max(round(per_second * self._seconds), min(done, 1))
        # a run that stands still, or a site that is not heard, is no reason for a change
        if self._cuts is None or (done and least >= self._cuts.first and self._cuts.differ_from(every)):
            ahead = most + math.ceil(_AHEAD_SECONDS * per_second)
            # where who does not hear of the change in time takes one, too
            self._cuts = Cuts(self._cuts.after(ahead) if self._cuts else ahead + 1, every)
        return self._cuts
