"""Distributed gradient descent in its three orders of mixing and descending.

All three converge with a constant α to an O(α/(1 − ρ)) neighbourhood of the minimiser of Σ_i f_i; they are
stable for α < (1 + λ_n(W))/L.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from flaremesh.algorithms.parameters import require_positive
from flaremesh.algorithms.protocol import Gradient, Mixed, Vectors, Weights
from flaremesh.algorithms.registry import register

if TYPE_CHECKING:
    from torch import Tensor


class DgdState(NamedTuple):
    """x: the site's iterate, (d,)."""

    x: Tensor


@register("dgd")
@dataclass(frozen=True)
class Dgd:
    """X⁺ = WX − α∇F(X) (Nedić and Ozdaglar 2009; D-PSGD, Lian et al. 2017).

    The gradient is taken at x, so that it is computed while the neighbours' values travel.

    Attributes:
        stepsize: α > 0.
    """

    weights: ClassVar[Weights] = Weights.DOUBLY_STOCHASTIC
    stepsize: float

    def __post_init__(self) -> None:
        require_positive(stepsize=self.stepsize)

    def init(self, x0: Tensor, gradient: Gradient) -> DgdState:
        """Start at x⁰."""
        return DgdState(x0)

    def message(self, state: DgdState) -> Vectors:
        """Send x."""
        return (state.x,)

    def update(self, state: DgdState, mixed: Mixed, gradient: Gradient) -> DgdState:
        """x⁺ = Σ_j w_ij x_j − α∇f(x)."""
        g = gradient(state.x)
        (wx,) = mixed()
        return DgdState(wx.sub_(g, alpha=self.stepsize))

    def estimate(self, state: DgdState) -> Tensor:
        """The iterate x."""
        return state.x


@register("dgd-cta")
@dataclass(frozen=True)
class DgdCta(Dgd):
    """Combine, then adapt: X⁺ = WX − α∇F(WX) (Ram, Nedić and Veeravalli 2010).

    The gradient waits for the neighbours: communication and computation do not overlap.
    """

    def update(self, state: DgdState, mixed: Mixed, gradient: Gradient) -> DgdState:
        """x⁺ = Σ_j w_ij x_j − α∇f(Σ_j w_ij x_j)."""
        (wx,) = mixed()
        return DgdState(wx.sub(gradient(wx), alpha=self.stepsize))


class DgdAtcState(NamedTuple):
    """x: the site's iterate; adapted: x − α∇f(x), which the neighbours get; both (d,)."""

    x: Tensor
    adapted: Tensor


@register("dgd-atc")
@dataclass(frozen=True)
class DgdAtc:
    """Adapt, then combine: X⁺ = W(X − α∇F(X)) (Chen and Sayed 2012).

    Attributes:
        stepsize: α > 0.
    """

    weights: ClassVar[Weights] = Weights.DOUBLY_STOCHASTIC
    stepsize: float

    def __post_init__(self) -> None:
        require_positive(stepsize=self.stepsize)

    def init(self, x0: Tensor, gradient: Gradient) -> DgdAtcState:
        """Start at x⁰ with the first adaptation done."""
        return self._adapt(x0, gradient)

    def message(self, state: DgdAtcState) -> Vectors:
        """Send x − α∇f(x)."""
        return (state.adapted,)

    def update(self, state: DgdAtcState, mixed: Mixed, gradient: Gradient) -> DgdAtcState:
        """x⁺ = Σ_j w_ij (x_j − α∇f_j(x_j))."""
        (x,) = mixed()
        return self._adapt(x, gradient)

    def estimate(self, state: DgdAtcState) -> Tensor:
        """The iterate x."""
        return state.x

    def _adapt(self, x: Tensor, gradient: Gradient) -> DgdAtcState:
        return DgdAtcState(x, x.sub(gradient(x), alpha=self.stepsize))
