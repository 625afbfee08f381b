"""GTAdam: gradient tracking with adaptive momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from flaremesh.algorithms.parameters import require_fraction, require_positive
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


class GtAdamState(NamedTuple):
    """x: iterate; s: gradient tracker; m, v: its first and second moment; g: gradient at x; all (d,)."""

    x: Tensor
    s: Tensor
    m: Tensor
    v: Tensor
    g: Tensor


@register("gtadam")
@dataclass(frozen=True)
class GtAdam:
    """Adam's direction from the tracked gradient, without bias correction.

    M⁺ = β₁M + (1 − β₁)S,  V⁺ = min{β₂V + (1 − β₂)S², G},
    X⁺ = WX − αM⁺/√(V⁺ + ε),  S⁺ = WS + ∇F(X⁺) − ∇F(X),  S⁰ = ∇F(X⁰)  (element by element).

    ε bounds the effective step α/√ε near the solution. There V decays to zero, and with Adam's usual 1e-8 the
    step grows beyond what is stable and drives the iterates away from the minimiser again.

    Attributes:
        stepsize: α > 0.
        beta1: β₁ in [0, 1).
        beta2: β₂ in [0, 1).
        epsilon: ε > 0.
        G: the cap on V.
    """

    weights: ClassVar[Weights] = Weights.DOUBLY_STOCHASTIC
    exchanges: ClassVar[tuple[Exchange, ...]] = (Exchange(vectors=2),)
    fixed_point: ClassVar[FixedPoint] = FixedPoint.MINIMISER
    masked: ClassVar[Masked] = Masked("s")
    paper: ClassVar[str] = "Carnevale et al. 2022, arXiv 2009.01745"
    stepsize: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-2
    G: float = 1e6

    def __post_init__(self) -> None:
        require_positive(stepsize=self.stepsize, epsilon=self.epsilon, G=self.G)
        require_fraction(beta1=self.beta1, beta2=self.beta2)

    def init(self, x0: Tensor, gradient: Gradient) -> GtAdamState:
        """s⁰ = ∇f(x⁰), both moments zero."""
        g = gradient(x0)
        zero = x0.new_zeros(x0.shape)
        return GtAdamState(x0, g, zero, zero, g)

    def step(self, state: GtAdamState, gradient: Gradient) -> Step[GtAdamState]:
        """The moments need no neighbour and overlap with the exchange; then x⁺ and s⁺."""
        mixed = yield state.x, state.s
        m = state.s.lerp(state.m, self.beta1)
        v = (self.beta2 * state.v).addcmul_(state.s, state.s, value=1 - self.beta2).clamp_(max=self.G)
        scale = (v + self.epsilon).sqrt_()
        wx, ws = mixed()
        x = wx.addcdiv_(m, scale, value=-self.stepsize)
        g = gradient(x)
        return GtAdamState(x, ws.add_(g).sub_(state.g), m, v, g)

    def repair(self, state: GtAdamState, x0: Tensor, gradient: Gradient) -> GtAdamState:
        """s = ∇f(x), as at the start: then Σs = Σ∇f(x) of those that stay, which the iteration keeps.

        The moments are a site's own, and forget what they were made of.
        """
        return state._replace(s=state.g)

    def estimate(self, state: GtAdamState) -> Tensor:
        """The iterate x."""
        return state.x

    def invariant(self, states: GtAdamState, gradients: Tensor) -> Vectors:
        """The mean tracker less the mean gradient, which is zero."""
        return ((states.s - gradients).mean(dim=0),)

    def rate(self, spectrum: Spectrum) -> None:
        """Linear, with a constant that the paper does not give."""
