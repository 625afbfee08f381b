"""A problem that takes one site longer than the others, and an algorithm that hardly mixes."""

import time
from dataclasses import dataclass
from typing import Any

from flaremesh.algorithms.consensus import Consensus as AverageConsensus
from flaremesh.problems.consensus import Consensus
from flaremesh.problems.protocol import SiteContext


class Uneven(Consensus):
    """A consensus problem whose gradient takes ``seconds`` at the site ``slow``."""

    def __init__(self, site: SiteContext, slow: str, seconds: float, dimension: int):
        super().__init__(site, dimension=dimension)
        self._seconds = seconds if site.name == slow else 0.0

    def loss_and_gradient(self, x: Any) -> Any:
        time.sleep(self._seconds)
        return super().loss_and_gradient(x)


@dataclass(frozen=True)
class Reluctant(AverageConsensus):
    """A consensus that goes next to nothing of the way to its neighbours' mean."""

    def update(self, state: Any, mixed: Any, gradient: Any) -> Any:
        (wx,) = mixed()
        return state._replace(x=state.x + 1e-6 * (wx - state.x))
