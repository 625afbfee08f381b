"""Distributed gradient descent in its three orders of mixing and descending.

All three converge with a constant α to an O(α/(1 − ρ)) neighbourhood of the minimiser of Σ_i f_i; they are
stable for α < (1 + λ_n(W))/L.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from flaremesh.algorithms.parameters import require_positive
from flaremesh.algorithms.protocol import Exchange, FixedPoint, Gradient, Spectrum, Step, Vectors, Weights
from flaremesh.algorithms.registry import register

if TYPE_CHECKING:
    from torch import Tensor


class DgdState(NamedTuple):
    """x: the site's iterate, (d,)."""

    x: Tensor


@register("dgd")
@dataclass(frozen=True)
class Dgd:
    """X⁺ = WX − α∇F(X) (as D-PSGD: Lian et al. 2017).

    The gradient is taken at x, so that it is computed while the neighbours' values travel.

    Attributes:
        stepsize: α > 0.
    """

    weights: ClassVar[Weights] = Weights.DOUBLY_STOCHASTIC
    exchanges: ClassVar[tuple[Exchange, ...]] = (Exchange(),)
    fixed_point: ClassVar[FixedPoint] = FixedPoint.NEIGHBOURHOOD
    clippable: ClassVar[bool] = True
    paper: ClassVar[str] = "Nedić and Ozdaglar 2009"
    stepsize: float

    def __post_init__(self) -> None:
        require_positive(stepsize=self.stepsize)

    def init(self, x0: Tensor, gradient: Gradient) -> DgdState:
        """Start at x⁰."""
        return DgdState(x0)

    def step(self, state: DgdState, gradient: Gradient) -> Step[DgdState]:
        """x⁺ = Σ_j w_ij x_j − α∇f(x)."""
        mixed = yield (state.x,)
        g = gradient(state.x)
        (wx,) = mixed()
        return DgdState(wx.sub_(g, alpha=self.stepsize))

    def repair(self, state: DgdState, x0: Tensor, gradient: Gradient) -> DgdState:
        """The state as it is: from any x the iteration leads to the same neighbourhood."""
        return state

    def estimate(self, state: DgdState) -> Tensor:
        """The iterate x."""
        return state.x

    def invariant(self, states: DgdState, gradients: Tensor) -> Vectors:
        """Nothing: the mean moves by the mean gradient."""
        return ()

    def rate(self, spectrum: Spectrum) -> float:
        """1 − αμ, to first order in α."""
        return 1 - self.stepsize * spectrum.convexity


@register("dgd-cta")
@dataclass(frozen=True)
class DgdCta(Dgd):
    """Combine, then adapt: X⁺ = WX − α∇F(WX).

    The gradient waits for the neighbours: communication and computation do not overlap.
    """

    paper: ClassVar[str] = "Ram, Nedić and Veeravalli 2010"

    def step(self, state: DgdState, gradient: Gradient) -> Step[DgdState]:
        """x⁺ = Σ_j w_ij x_j − α∇f(Σ_j w_ij x_j)."""
        mixed = yield (state.x,)
        (wx,) = mixed()
        return DgdState(wx.sub(gradient(wx), alpha=self.stepsize))


@register("dgd-atc")
@dataclass(frozen=True)
class DgdAtc(Dgd):
    """Adapt, then combine: X⁺ = W(X − α∇F(X)).

    The gradient goes into the message: communication and computation do not overlap.
    """

    paper: ClassVar[str] = "Chen and Sayed 2012"

    def step(self, state: DgdState, gradient: Gradient) -> Step[DgdState]:
        """x⁺ = Σ_j w_ij (x_j − α∇f_j(x_j))."""
        mixed = yield (state.x.sub(gradient(state.x), alpha=self.stepsize),)
        (x,) = mixed()
        return DgdState(x)
