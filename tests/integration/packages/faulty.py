"""Problems that go wrong, or take their time, as a user's own package at the sites."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flaremesh.problems.consensus import Consensus
from flaremesh.problems.digits import Digits
from flaremesh.problems.protocol import SiteContext


class Faulty(Consensus):
    """Loses its data, or its mind, at one site after some gradients."""

    def __init__(self, site: SiteContext, at: str, after: int, fault: str, **args: Any):
        super().__init__(site, **args)
        self._left = after if site.name == at else -1
        self._fault = fault

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self._left -= 1
        if self._left != 0:
            return super().loss_and_gradient(x)
        if self._fault == "raise":
            raise FileNotFoundError("patients.csv is gone")
        return torch.tensor(torch.nan), x

    def evaluate(self, x: Tensor) -> Mapping[str, float]:
        return {}


class Unhurried(Consensus):
    """Leaves the machine to others, as a model on a GPU does: a gradient takes 10 ms."""

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        time.sleep(0.01)
        return super().loss_and_gradient(x)


class Late(Consensus):
    """Computes for so many seconds at one site, once."""

    def __init__(self, site: SiteContext, at: str, seconds: float, **args: Any):
        super().__init__(site, **args)
        self._left, self._seconds = 5 if site.name == at else -1, seconds

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self._left -= 1
        if self._left == 0:
            time.sleep(self._seconds)
        return super().loss_and_gradient(x)


class Paced(Digits):
    """Digits on a machine on which a gradient takes so many seconds, and leaves the cores to others."""

    def __init__(self, site: SiteContext, seconds: Mapping[str, float], otherwise: float, **args: Any):
        super().__init__(site, **args)
        self._seconds = seconds.get(site.name, otherwise)

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        time.sleep(self._seconds)
        return super().loss_and_gradient(x)
