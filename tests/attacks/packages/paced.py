"""An honest problem that goes on for as long as a test wants it to; its result does not depend on that."""

import time
from pathlib import Path
from typing import Any

from torch import Tensor

from flaremesh.problems.consensus import Consensus
from flaremesh.problems.protocol import SiteContext


class Paced(Consensus):
    """A gradient takes 20 ms until the file ``hurry`` is there."""

    def __init__(self, site: SiteContext, hurry: str, **args: Any):
        super().__init__(site, **args)
        self._hurry = Path(hurry)
        self._hurried = False

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self._hurried = self._hurried or self._hurry.exists()
        if not self._hurried:
            time.sleep(0.02)
        return super().loss_and_gradient(x)
