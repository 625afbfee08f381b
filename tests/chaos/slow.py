"""Problems of which each evaluation takes a while, so that a run can be hit at a chosen iteration."""

import time
from collections.abc import Mapping

from torch import Tensor

from flaremesh.problems.consensus import Consensus
from flaremesh.problems.digits import Digits

SECONDS = 0.02


class SlowDigits(Digits):
    """Draws its batches, so that a run has a position in the data."""

    def evaluate(self, x: Tensor) -> Mapping[str, float]:
        time.sleep(SECONDS)
        return super().evaluate(x)


class SlowConsensus(Consensus):
    """For algorithms that ask for no gradient."""

    def evaluate(self, x: Tensor) -> Mapping[str, float]:
        time.sleep(SECONDS)
        return super().evaluate(x)
