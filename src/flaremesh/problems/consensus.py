"""Values to be averaged: each site holds one, and every site wants their mean."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from flaremesh.problems.protocol import SiteContext


class Consensus:
    """f_i(x) = ½‖x − v_i‖² with the site's value v_i, also its initial point; Σ_i f_i is least at the mean.

    Args:
        site: the site to which the problem belongs.
        values: value of each site by name, a number or a list of numbers; without it, random ones.
        dimension: d of random values, uniform in [0, 1).

    Raises:
        ValueError: ``values`` has none for this site.
    """

    def __init__(
        self,
        site: SiteContext,
        values: Mapping[str, float | Sequence[float]] | None = None,
        dimension: int = 1,
    ):
        if values is None:
            self._value = torch.rand(dimension, dtype=torch.float64, generator=site.generator())
        elif site.name in values:
            self._value = torch.tensor(values[site.name], dtype=torch.float64).reshape(-1)
        else:
            raise ValueError(f"values has none for {site.name}")

    def initial(self) -> Tensor:
        """v_i, (d,) float64."""
        return self._value.clone()

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """½‖x − v_i‖² and x − v_i."""
        difference = x - self._value
        return 0.5 * difference.dot(difference), difference

    def evaluate(self, x: Tensor) -> Mapping[str, float]:
        """``value``: the mean of the coordinates of x."""
        return {"value": float(x.mean())}

    def buffers(self) -> None:
        """None: there is no model."""

    def state(self, x: Tensor) -> Mapping[str, Tensor]:
        """The estimate, as ``value``."""
        return {"value": x}
