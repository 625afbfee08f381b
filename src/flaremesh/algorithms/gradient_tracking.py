"""Gradient tracking (DIGing)."""

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


class GradientTrackingState(NamedTuple):
    """x: iterate; y: gradient tracker; g: gradient at x; all (d,)."""

    x: Tensor
    y: Tensor
    g: Tensor


@register("gradient-tracking")
@dataclass(frozen=True)
class GradientTracking:
    """X⁺ = WX − αY,  Y⁺ = WY + ∇F(X⁺) − ∇F(X),  Y⁰ = ∇F(X⁰).

    The mean of the trackers equals the mean of the gradients at every iteration, so that with a fixed small α
    all sites converge linearly (rate 1 − αμ) to the minimiser of Σ_i f_i itself, however different the f_i.

    Attributes:
        stepsize: α > 0.
    """

    weights: ClassVar[Weights] = Weights.DOUBLY_STOCHASTIC
    exchanges: ClassVar[tuple[Exchange, ...]] = (Exchange(vectors=2, sums=1),)
    fixed_point: ClassVar[FixedPoint] = FixedPoint.MINIMISER
    masked: ClassVar[Masked] = Masked("y")
    paper: ClassVar[str] = "Nedić, Olshevsky and Shi 2017, arXiv 1607.03218"
    asynchronous: ClassVar[bool] = True
    stepsize: float

    def __post_init__(self) -> None:
        require_positive(stepsize=self.stepsize)

    def init(self, x0: Tensor, gradient: Gradient) -> GradientTrackingState:
        """y⁰ = ∇f(x⁰)."""
        g = gradient(x0)
        return GradientTrackingState(x0, g, g)

    def step(self, state: GradientTrackingState, gradient: Gradient) -> Step[GradientTrackingState]:
        """x⁺ = Σ_j w_ij x_j − αy, then y⁺ = Σ_j w_ij y_j + ∇f(x⁺) − ∇f(x)."""
        mixed = yield state.x, state.y
        wx, wy = mixed()
        x = wx.sub_(state.y, alpha=self.stepsize)
        g = gradient(x)
        return GradientTrackingState(x, wy.add_(g).sub_(state.g), g)

    def repair(self, state: GradientTrackingState, x0: Tensor, gradient: Gradient) -> GradientTrackingState:
        """y = ∇f(x), as at the start: then Σy = Σ∇f(x) of those that stay, which the iteration keeps."""
        return GradientTrackingState(state.x, state.g, state.g)

    def estimate(self, state: GradientTrackingState) -> Tensor:
        """The iterate x."""
        return state.x

    def invariant(self, states: GradientTrackingState, gradients: Tensor) -> Vectors:
        """The mean tracker less the mean gradient, which is zero."""
        return ((states.y - gradients).mean(dim=0),)

    def rate(self, spectrum: Spectrum) -> float | None:
        """1 − αμ, to first order in α."""
        return 1 - self.stepsize * spectrum.convexity
