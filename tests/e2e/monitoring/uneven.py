"""Problems that are other ones at one site: one takes it longer, one draws it away from the others."""

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


class Apart(Consensus):
    """A consensus problem in which the value of the site ``apart`` is far from those of the others."""

    def __init__(self, site: SiteContext, apart: str, dimension: int):
        super().__init__(site, dimension=dimension)
        if site.name == apart:
            self._value += 1e3
