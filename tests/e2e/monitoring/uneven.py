"""A problem that takes one site longer than the others."""

import time
from typing import Any

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
