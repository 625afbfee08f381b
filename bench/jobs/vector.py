"""Problems over one float32 vector, as long as the parameters of a model."""

import time
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from flaremesh.problems.protocol import SiteContext

_SIDE = 512  # of the matrices that are multiplied


class Vector:
    """f_i(x) = ½‖x − v_i‖² with a random v_i, also the initial point.

    Args:
        site: where the problem lives.
        dimension: d.
        gradient_seconds: what a gradient takes beside that.
        on: ``cores`` multiplies matrices for so long when nothing else runs; ``device`` leaves the cores
            alone, as a gradient on a GPU does.
    """

    def __init__(
        self,
        site: SiteContext,
        dimension: int,
        gradient_seconds: float = 0.0,
        on: Literal["cores", "device"] = "cores",
    ):
        self._value = torch.rand(dimension, generator=site.generator())
        self._seconds, self._on = gradient_seconds, on
        self._factor = torch.rand(_SIDE, _SIDE)
        self._products = 0
        if gradient_seconds and on == "cores":
            started = time.perf_counter()
            while time.perf_counter() - started < gradient_seconds:
                self._multiply()
                self._products += 1

    def initial(self) -> Tensor:
        return self._value

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(self._products):
            self._multiply()
        if self._on == "device":
            time.sleep(self._seconds)
        difference = x - self._value
        return 0.5 * difference.dot(difference), difference

    def evaluate(self, x: Tensor) -> Mapping[str, float]:
        return {}

    def buffers(self) -> None:
        """None: there is no model."""

    def state(self, x: Tensor) -> Mapping[str, Tensor]:
        """One coordinate: nobody wants the model."""
        return {"value": x[:1]}

    def _multiply(self) -> None:
        torch.mm(self._factor, self._factor)
