"""Algorithms that take many gradient steps between two exchanges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from flaremesh.algorithms.descent import descend
from flaremesh.algorithms.parameters import require_count, require_positive
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


class LocalDgdState(NamedTuple):
    """x: the site's iterate, (d,)."""

    x: Tensor


@register("local-dgd")
@dataclass(frozen=True)
class LocalDgd:
    """Z = X;  K times Z ← Z − α∇F(Z);  X⁺ = WZ (local SGD over a graph; with K = 1 it is dgd-atc).

    Between exchanges every site is drawn to the minimiser of its own objective, the further the more steps it
    takes: where the objectives differ, the bias grows with K.

    Attributes:
        stepsize: α > 0.
        local_steps: K.
    """

    weights: ClassVar[Weights] = Weights.DOUBLY_STOCHASTIC
    exchanges: ClassVar[tuple[Exchange, ...]] = (Exchange(),)
    fixed_point: ClassVar[FixedPoint] = FixedPoint.NEIGHBOURHOOD
    clippable: ClassVar[bool] = True
    paper: ClassVar[str] = "Koloskova et al. 2020, arXiv 2003.10422"
    asynchronous: ClassVar[bool] = True
    stepsize: float
    local_steps: int = 1

    def __post_init__(self) -> None:
        require_positive(stepsize=self.stepsize)
        require_count(local_steps=self.local_steps)

    def init(self, x0: Tensor, gradient: Gradient) -> LocalDgdState:
        """Start at x⁰."""
        return LocalDgdState(x0)

    def step(self, state: LocalDgdState, gradient: Gradient) -> Step[LocalDgdState]:
        """x⁺ = Σ_j w_ij z_j."""
        z = descend(gradient, state.x, steps=self.local_steps, stepsize=self.stepsize)
        mixed = yield (z,)
        (x,) = mixed()
        return LocalDgdState(x)

    def repair(self, state: LocalDgdState, x0: Tensor, gradient: Gradient) -> LocalDgdState:
        """The state as it is: from any x the iteration leads to the same neighbourhood."""
        return state

    def estimate(self, state: LocalDgdState) -> Tensor:
        """The iterate x."""
        return state.x

    def invariant(self, states: LocalDgdState, gradients: Tensor) -> Vectors:
        """Nothing: the mean moves by the mean of all local steps."""
        return ()

    def rate(self, spectrum: Spectrum) -> float:
        """(1 − αμ)ᴷ, to first order in α."""
        return (1 - self.stepsize * spectrum.convexity) ** self.local_steps


class KGtState(NamedTuple):
    """x: iterate; c: correction of the site's local steps; both (d,)."""

    x: Tensor
    c: Tensor


@register("k-gt")
@dataclass(frozen=True)
class KGt:
    """Gradient tracking with local steps.

    Z = X;  K times Z ← Z − η_c(∇F(Z) + C);  D = (X − Z)/(Kη_c),
    C⁺ = C − D + WD,  X⁺ = W(X − Kη_cη_s D),  C⁰ = 0.

    The corrections sum to zero and come to hold what a site's gradient differs by from the mean one, so that
    the fixed point is the minimiser itself for every K, and K local steps take the place of K exchanges.

    Attributes:
        stepsize: η_c > 0, of a local step.
        local_steps: K.
        outer: η_s > 0, by which what the local steps have done is taken over.
    """

    weights: ClassVar[Weights] = Weights.DOUBLY_STOCHASTIC
    exchanges: ClassVar[tuple[Exchange, ...]] = (Exchange(vectors=2, sums=1),)
    fixed_point: ClassVar[FixedPoint] = FixedPoint.MINIMISER
    masked: ClassVar[Masked] = Masked("c")
    paper: ClassVar[str] = "Liu, Lin, Koloskova and Stich 2023, arXiv 2301.01313, algorithm 1"
    asynchronous: ClassVar[bool] = True
    stepsize: float
    local_steps: int = 1
    outer: float = 0.5

    def __post_init__(self) -> None:
        require_positive(stepsize=self.stepsize, outer=self.outer)
        require_count(local_steps=self.local_steps)

    def init(self, x0: Tensor, gradient: Gradient) -> KGtState:
        """c⁰ = 0."""
        return KGtState(x0, x0.new_zeros(x0.shape))

    def step(self, state: KGtState, gradient: Gradient) -> Step[KGtState]:
        """The local steps go into the message: communication and computation do not overlap."""
        shift = state.c * self.stepsize
        z = descend(gradient, state.x, steps=self.local_steps, stepsize=self.stepsize, shift=shift)
        moved = state.x - z
        d = moved / (self.local_steps * self.stepsize)
        mixed = yield state.x.sub(moved, alpha=self.outer), d
        x, wd = mixed()
        return KGtState(x, wd.add_(state.c).sub_(d))

    def repair(self, state: KGtState, x0: Tensor, gradient: Gradient) -> KGtState:
        """c = 0, as at the start: then Σc = 0 of those that stay, which the iteration keeps."""
        return KGtState(state.x, state.c.new_zeros(state.c.shape))

    def estimate(self, state: KGtState) -> Tensor:
        """The iterate x."""
        return state.x

    def invariant(self, states: KGtState, gradients: Tensor) -> Vectors:
        """The mean correction, which is zero."""
        return (states.c.mean(dim=0),)

    def rate(self, spectrum: Spectrum) -> float:
        """1 − Kη_cη_sμ, to first order in η_c."""
        return 1 - self.local_steps * self.stepsize * self.outer * spectrum.convexity
