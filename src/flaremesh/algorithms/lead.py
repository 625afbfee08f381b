"""LEAD: messages of few bits, and yet the minimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from flaremesh.algorithms.parameters import require_positive
from flaremesh.algorithms.protocol import (
    Exchange,
    FixedPoint,
    Gradient,
    Masked,
    Spectrum,
    Step,
    Vectors,
    Weights,
)
from flaremesh.algorithms.registry import register

if TYPE_CHECKING:
    from torch import Tensor


class LeadState(NamedTuple):
    """x: iterate; d: dual variable of the site; both (d,)."""

    x: Tensor
    d: Tensor


@register("lead")
@dataclass(frozen=True)
class Lead:
    """Y = X − η∇F(X) − ηD,  D⁺ = D + γ/(2η) (I − W)Ŷ,  X⁺ = X − η∇F(X) − ηD⁺,  D¹ = 0,  X¹ = X⁰ − η∇F(X⁰).

    The wire compresses: γ is its step, and Ŷ its public copies Ŷ⁺ = Ŷ + C(Y − Ŷ), which take over all that
    is sent (α = 1 in the paper, whose C is random). What C drops does not bias the minimiser: the dual
    variables sum to zero on every wire. With top-k, γ must be smaller than for others: a quarter of its
    fraction does. With exact messages it is NIDS.

    Attributes:
        stepsize: η > 0.
    """

    weights: ClassVar[Weights] = Weights.SYMMETRIC
    exchanges: ClassVar[tuple[Exchange, ...]] = (Exchange(),)
    fixed_point: ClassVar[FixedPoint] = FixedPoint.MINIMISER
    masked: ClassVar[Masked] = Masked("d")
    paper: ClassVar[str] = "Liu, Li, Wang, Tang and Yan 2021, arXiv 2007.00232, algorithm 1"
    stepsize: float

    def __post_init__(self) -> None:
        require_positive(stepsize=self.stepsize)

    def init(self, x0: Tensor, gradient: Gradient) -> LeadState:
        """x¹ = x⁰ − η∇f(x⁰), d¹ = 0."""
        return LeadState(x0.sub(gradient(x0), alpha=self.stepsize), x0.new_zeros(x0.shape))

    def step(self, state: LeadState, gradient: Gradient) -> Step[LeadState]:
        """The mixture is y − γ Σ_j (δ_ij − w_ij) ŷ_j."""
        descended = state.x.sub(gradient(state.x), alpha=self.stepsize)
        y = descended.sub(state.d, alpha=self.stepsize)
        mixed = yield (y,)
        (wy,) = mixed()
        d = state.d.add(y - wy, alpha=1 / (2 * self.stepsize))
        return LeadState(descended.sub_(d, alpha=self.stepsize), d)

    def repair(self, state: LeadState, x0: Tensor, gradient: Gradient) -> LeadState:
        """d = 0, as at the start: then Σd = 0 of those that stay, which the iteration keeps."""
        return LeadState(state.x, state.d.new_zeros(state.d.shape))

    def estimate(self, state: LeadState) -> Tensor:
        """The iterate x."""
        return state.x

    def invariant(self, states: LeadState, gradients: Tensor) -> Vectors:
        """The mean dual variable, which is zero."""
        return (states.d.mean(dim=0),)

    def rate(self, spectrum: Spectrum) -> float:
        """1 − ημ, to first order in η."""
        return 1 - self.stepsize * spectrum.convexity
