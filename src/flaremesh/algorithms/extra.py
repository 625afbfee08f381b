"""EXTRA."""

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


class ExtraState(NamedTuple):
    """x: iterate; h: (x + Wx)/2 of the iterate before; g: gradient at that one; all (d,)."""

    x: Tensor
    h: Tensor
    g: Tensor


@register("extra")
@dataclass(frozen=True)
class Extra:
    """X⁺ = (I + W)X − H − α(∇F(X) − G),  H⁺ = (I + W)X/2,  G⁺ = ∇F(X),  H⁰ = X⁰,  G⁰ = 0.

    Its first iteration is that of dgd. α < 2λ_min((I + W)/2)/L.

    Attributes:
        stepsize: α > 0.
    """

    weights: ClassVar[Weights] = Weights.SYMMETRIC
    exchanges: ClassVar[tuple[Exchange, ...]] = (Exchange(),)
    fixed_point: ClassVar[FixedPoint] = FixedPoint.MINIMISER
    masked: ClassVar[Masked] = Masked("g")
    paper: ClassVar[str] = "Shi, Ling, Wu and Yin 2015, arXiv 1404.6264"
    stepsize: float

    def __post_init__(self) -> None:
        require_positive(stepsize=self.stepsize)

    def init(self, x0: Tensor, gradient: Gradient) -> ExtraState:
        """h⁰ = x⁰, g⁰ = 0."""
        return ExtraState(x0, x0, x0.new_zeros(x0.shape))

    def step(self, state: ExtraState, gradient: Gradient) -> Step[ExtraState]:
        """The gradient is taken at x, so that it is computed while the neighbours' values travel."""
        mixed = yield (state.x,)
        g = gradient(state.x)
        (wx,) = mixed()
        both = wx.add_(state.x)
        x = (both - state.h).sub_(g - state.g, alpha=self.stepsize)
        return ExtraState(x, both.div_(2), g)

    def repair(self, state: ExtraState, x0: Tensor, gradient: Gradient) -> ExtraState:
        """h = x and g = 0, as at the start: then Σ(x − h + αg) = 0 of those that stay, and is kept."""
        return ExtraState(state.x, state.x, state.g.new_zeros(state.g.shape))

    def estimate(self, state: ExtraState) -> Tensor:
        """The iterate x."""
        return state.x

    def invariant(self, states: ExtraState, gradients: Tensor) -> Vectors:
        """The mean of x − h + αg, which is zero: the mean moves by the mean gradient."""
        return ((states.x - states.h + self.stepsize * states.g).mean(dim=0),)

    def rate(self, spectrum: Spectrum) -> float:
        """1 − αμ, to first order in α."""
        return 1 - self.stepsize * spectrum.convexity
