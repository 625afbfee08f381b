"""Push-sum consensus on directed graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from flaremesh.algorithms.protocol import Exchange, FixedPoint, Gradient, Spectrum, Step, Vectors, Weights
from flaremesh.algorithms.registry import register

if TYPE_CHECKING:
    from torch import Tensor


class PushSumState(NamedTuple):
    """x: the site's share of the sum, (d,); w: its push-sum weight, (1,)."""

    x: Tensor
    w: Tensor


@register("push-sum")
@dataclass(frozen=True)
class PushSum:
    """X⁺ = PX,  w⁺ = Pw,  w⁰ = 1;  z_i = x_i/w_i converges to the mean of the initial values.

    P is column stochastic with a positive diagonal; Σx and Σw = n are preserved. The rate is |λ₂(P)|.
    """

    weights: ClassVar[Weights] = Weights.COLUMN_STOCHASTIC
    exchanges: ClassVar[tuple[Exchange, ...]] = (Exchange(vectors=1, scalars=1),)
    fixed_point: ClassVar[FixedPoint] = FixedPoint.MEAN
    paper: ClassVar[str] = "Kempe, Dobra and Gehrke 2003"

    def init(self, x0: Tensor, gradient: Gradient) -> PushSumState:
        """x⁰ is the site's own value, w⁰ = 1."""
        return PushSumState(x0, x0.new_ones(1))

    def step(self, state: PushSumState, gradient: Gradient) -> Step[PushSumState]:
        """x⁺ = Σ_j p_ij x_j, w⁺ = Σ_j p_ij w_j."""
        mixed = yield state.x, state.w
        px, pw = mixed()
        return PushSumState(px, pw)

    def repair(self, state: PushSumState, x0: Tensor, gradient: Gradient) -> PushSumState:
        """x = x⁰ and w = 1 again: Σx = Σx⁰ and Σw = n of those that stay, as the others took shares along."""
        return PushSumState(x0, x0.new_ones(1))

    def estimate(self, state: PushSumState) -> Tensor:
        """z = x/w."""
        return state.x / state.w

    def invariant(self, states: PushSumState, gradients: Tensor) -> Vectors:
        """The means of x and w."""
        return states.x.mean(dim=0), states.w.mean(dim=0)

    def rate(self, spectrum: Spectrum) -> float:
        """|λ₂(P)|."""
        return spectrum.mixing
