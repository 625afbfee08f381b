"""Stochastic gradient push on directed graphs (Assran et al. 2019, arXiv 1811.10792)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from flaremesh.algorithms.parameters import require_positive
from flaremesh.algorithms.protocol import Gradient, Mixed, Vectors, Weights
from flaremesh.algorithms.registry import register

if TYPE_CHECKING:
    from torch import Tensor


class SgpState(NamedTuple):
    """z: x/w, (d,); pushed: x − αg(z), which the neighbours get, (d,); w: push-sum weight, (1,)."""

    z: Tensor
    pushed: Tensor
    w: Tensor


@register("sgp")
@dataclass(frozen=True)
class StochasticGradientPush:
    """X⁺ = P(X − α∇F(Z)),  w⁺ = Pw,  w⁰ = 1,  z_i = x_i/w_i.

    P is column stochastic with a positive diagonal. With a constant α the z_i converge to an O(α)
    neighbourhood of the minimiser of Σ_i f_i.

    Attributes:
        stepsize: α > 0.
    """

    weights: ClassVar[Weights] = Weights.COLUMN_STOCHASTIC
    stepsize: float

    def __post_init__(self) -> None:
        require_positive(stepsize=self.stepsize)

    def init(self, x0: Tensor, gradient: Gradient) -> SgpState:
        """x⁰ at every site, w⁰ = 1, and the first gradient step done."""
        return self._step(x0, x0.new_ones(1), gradient)

    def message(self, state: SgpState) -> Vectors:
        """Send x − αg(z) and, as one more element, w."""
        return state.pushed, state.w

    def update(self, state: SgpState, mixed: Mixed, gradient: Gradient) -> SgpState:
        """x⁺ = Σ_j p_ij (x_j − αg_j(z_j)), w⁺ = Σ_j p_ij w_j."""
        px, pw = mixed()
        return self._step(px, pw, gradient)

    def estimate(self, state: SgpState) -> Tensor:
        """z = x/w."""
        return state.z

    def _step(self, x: Tensor, w: Tensor, gradient: Gradient) -> SgpState:
        z = x / w
        return SgpState(z, x.sub(gradient(z), alpha=self.stepsize), w)
