"""Stochastic gradient push on directed graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from flaremesh.algorithms.parameters import require_positive
from flaremesh.algorithms.protocol import Exchange, FixedPoint, Gradient, Spectrum, Step, Vectors, Weights
from flaremesh.algorithms.registry import register

if TYPE_CHECKING:
    from torch import Tensor


class SgpState(NamedTuple):
    """x: the site's share of the sum, (d,); w: its push-sum weight, (1,); z: x/w, (d,)."""

    x: Tensor
    w: Tensor
    z: Tensor


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
    exchanges: ClassVar[tuple[Exchange, ...]] = (Exchange(vectors=1, scalars=1),)
    fixed_point: ClassVar[FixedPoint] = FixedPoint.NEIGHBOURHOOD
    paper: ClassVar[str] = "Assran et al. 2019, arXiv 1811.10792"
    stepsize: float

    def __post_init__(self) -> None:
        require_positive(stepsize=self.stepsize)

    def init(self, x0: Tensor, gradient: Gradient) -> SgpState:
        """x⁰ at every site, w⁰ = 1."""
        return SgpState(x0, x0.new_ones(1), x0)

    def step(self, state: SgpState, gradient: Gradient) -> Step[SgpState]:
        """x⁺ = Σ_j p_ij (x_j − αg_j(z_j)), w⁺ = Σ_j p_ij w_j."""
        mixed = yield state.x.sub(gradient(state.z), alpha=self.stepsize), state.w
        px, pw = mixed()
        return SgpState(px, pw, px / pw)

    def repair(self, state: SgpState, x0: Tensor, gradient: Gradient) -> SgpState:
        """w = 1, so that Σw = n of those that stay, and x = z, so that each stays at its estimate x/w."""
        return SgpState(state.z, state.w.new_ones(1), state.z)

    def estimate(self, state: SgpState) -> Tensor:
        """z = x/w."""
        return state.z

    def invariant(self, states: SgpState, gradients: Tensor) -> Vectors:
        """The mean of w."""
        return (states.w.mean(dim=0),)

    def rate(self, spectrum: Spectrum) -> float:
        """1 − αμ, to first order in α."""
        return 1 - self.stepsize * spectrum.convexity
