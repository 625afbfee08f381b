"""After which iterations all sites of a run take checkpoints."""

from typing import NamedTuple


class Cuts(NamedTuple):
    """The iterations after which all sites of a run take checkpoints, until they are told others.

    Attributes:
        first: the first of them.
        every: so many iterations later the next one comes, and so on; 0: there is only the first.
    """

    first: int
    every: int

    def __contains__(self, iteration: object) -> bool:
        if not isinstance(iteration, int) or iteration < self.first:
            return False
        return iteration == self.first if self.every == 0 else (iteration - self.first) % self.every == 0

    def after(self, iteration: int) -> int:
        """The first of them that comes later than ``iteration``; without any, the iteration after it."""
        if iteration < self.first:
            return self.first
        return iteration + (self.every - (iteration - self.first) % self.every if self.every else 1)

    def differ_from(self, every: int) -> bool:
        """Whether ``every`` iterations are less than half as many as between these, or twice as many."""
        return not self.every < 2 * every < 4 * self.every
