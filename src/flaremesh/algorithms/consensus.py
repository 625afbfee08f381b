"""Average consensus: X⁺ = WX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from flaremesh.algorithms.protocol import Exchange, FixedPoint, Gradient, Spectrum, Step, Vectors, Weights
from flaremesh.algorithms.registry import register

if TYPE_CHECKING:
    from torch import Tensor


class ConsensusState(NamedTuple):
    """x: the site's value, (d,)."""

    x: Tensor


@register("consensus")
@dataclass(frozen=True)
class Consensus:
    """Every site converges to the mean of the initial values at rate ρ = ‖W − J‖₂ per iteration."""

    weights: ClassVar[Weights] = Weights.DOUBLY_STOCHASTIC
    exchanges: ClassVar[tuple[Exchange, ...]] = (Exchange(),)
    fixed_point: ClassVar[FixedPoint] = FixedPoint.MEAN
    paper: ClassVar[str] = "DeGroot 1974"

    def init(self, x0: Tensor, gradient: Gradient) -> ConsensusState:
        """x⁰ is the site's own value."""
        return ConsensusState(x0)

    def step(self, state: ConsensusState, gradient: Gradient) -> Step[ConsensusState]:
        """x⁺ = Σ_j w_ij x_j."""
        mixed = yield (state.x,)
        (wx,) = mixed()
        return ConsensusState(wx)

    def repair(self, state: ConsensusState, x0: Tensor, gradient: Gradient) -> ConsensusState:
        """x = x⁰ again: Σx = Σx⁰ of those that stay, and no x tells how much of it is the others'."""
        return ConsensusState(x0)

    def estimate(self, state: ConsensusState) -> Tensor:
        """The current value x."""
        return state.x

    def invariant(self, states: ConsensusState, gradients: Tensor) -> Vectors:
        """The mean of x."""
        return (states.x.mean(dim=0),)

    def rate(self, spectrum: Spectrum) -> float:
        """ρ."""
        return spectrum.mixing
