"""Momentum that differing objectives do not lead astray."""

from __future__ import annotations

import math
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


class MomentumTrackingState(NamedTuple):
    """x: iterate; u: momentum; c: what the site's momentum differs by from the mean one; all (d,)."""

    x: Tensor
    u: Tensor
    c: Tensor


@register("momentum-tracking")
@dataclass(frozen=True)
class MomentumTracking:
    """Gradient tracking with momentum.

    U⁺ = βU + ∇F(X),  X⁺ = W(X − α(U⁺ − C)),  C⁺ = W(C − U⁺) + U⁺,  U⁰ = C⁰ = 0.

    The corrections sum to zero. With β = 0 it is gradient tracking; α/(1 − β) is what a step comes to.

    Attributes:
        stepsize: α > 0.
        beta: β in [0, 1).
    """

    weights: ClassVar[Weights] = Weights.DOUBLY_STOCHASTIC
    exchanges: ClassVar[tuple[Exchange, ...]] = (Exchange(vectors=2),)
    fixed_point: ClassVar[FixedPoint] = FixedPoint.MINIMISER
    masked: ClassVar[Masked] = Masked("c")
    paper: ClassVar[str] = "Takezawa et al. 2022, arXiv 2209.15505, algorithm 1"
    stepsize: float
    beta: float = 0.9

    def __post_init__(self) -> None:
        require_positive(stepsize=self.stepsize)
        require_fraction(beta=self.beta)

    def init(self, x0: Tensor, gradient: Gradient) -> MomentumTrackingState:
        """u⁰ = c⁰ = 0."""
        zero = x0.new_zeros(x0.shape)
        return MomentumTrackingState(x0, zero, zero)

    def step(self, state: MomentumTrackingState, gradient: Gradient) -> Step[MomentumTrackingState]:
        """The gradient goes into the message: communication and computation do not overlap."""
        u = gradient(state.x).add(state.u, alpha=self.beta)
        astray = state.c - u
        mixed = yield state.x.add(astray, alpha=self.stepsize), astray
        x, c = mixed()
        return MomentumTrackingState(x, u, c.add_(u))

    def repair(self, state: MomentumTrackingState, x0: Tensor, gradient: Gradient) -> MomentumTrackingState:
        """c = 0, as at the start: then Σc = 0 of those that stay, which the iteration keeps."""
        return state._replace(c=state.c.new_zeros(state.c.shape))

    def estimate(self, state: MomentumTrackingState) -> Tensor:
        """The iterate x."""
        return state.x

    def invariant(self, states: MomentumTrackingState, gradients: Tensor) -> Vectors:
        """The mean correction, which is zero."""
        return (states.c.mean(dim=0),)

    def rate(self, spectrum: Spectrum) -> float:
        """The greater root of z² − (1 + β − αμ)z + β, to first order 1 − αμ/(1 − β)."""
        return greater_root(1 + self.beta - self.stepsize * spectrum.convexity, self.beta)


class QuasiGlobalMomentumState(NamedTuple):
    """x: iterate; m: momentum, of what the site has moved by; both (d,)."""

    x: Tensor
    m: Tensor


@register("quasi-global-momentum")
@dataclass(frozen=True)
class QuasiGlobalMomentum:
    """QG-DSGDm, with μ = β.

    X⁺ = W(X − α(βM + ∇F(X))),  M⁺ = βM + (1 − β)(X − X⁺)/α,  M⁰ = 0.

    The momentum is made of how the mixed iterate moves, which is nearly the same everywhere, instead of the
    site's own gradients. α/(1 − β) is what a step comes to; the bias is that of dgd-atc with α.

    Attributes:
        stepsize: α > 0.
        beta: β in [0, 1).
    """

    weights: ClassVar[Weights] = Weights.DOUBLY_STOCHASTIC
    exchanges: ClassVar[tuple[Exchange, ...]] = (Exchange(),)
    fixed_point: ClassVar[FixedPoint] = FixedPoint.NEIGHBOURHOOD
    clippable: ClassVar[bool] = True
    paper: ClassVar[str] = "Lin, Karimireddy, Stich and Jaggi 2021, arXiv 2102.04761, algorithm 1"
    stepsize: float
    beta: float = 0.9

    def __post_init__(self) -> None:
        require_positive(stepsize=self.stepsize)
        require_fraction(beta=self.beta)

    def init(self, x0: Tensor, gradient: Gradient) -> QuasiGlobalMomentumState:
        """m⁰ = 0."""
        return QuasiGlobalMomentumState(x0, x0.new_zeros(x0.shape))

    def step(self, state: QuasiGlobalMomentumState, gradient: Gradient) -> Step[QuasiGlobalMomentumState]:
        """The gradient goes into the message: communication and computation do not overlap."""
        direction = gradient(state.x).add(state.m, alpha=self.beta)
        mixed = yield (state.x.sub(direction, alpha=self.stepsize),)
        (x,) = mixed()
        m = (self.beta * state.m).add_(state.x - x, alpha=(1 - self.beta) / self.stepsize)
        return QuasiGlobalMomentumState(x, m)

    def repair(
        self, state: QuasiGlobalMomentumState, x0: Tensor, gradient: Gradient
    ) -> QuasiGlobalMomentumState:
        """The state as it is: from any x and m the iteration leads to the same neighbourhood."""
        return state

    def estimate(self, state: QuasiGlobalMomentumState) -> Tensor:
        """The iterate x."""
        return state.x

    def invariant(self, states: QuasiGlobalMomentumState, gradients: Tensor) -> Vectors:
        """Nothing: the mean moves by the mean of momentum and gradient."""
        return ()

    def rate(self, spectrum: Spectrum) -> float:
        """The greater root of z² − (1 + β(2 − β) − αμ)z + β(2 − β) − αμβ, to first order 1 − αμ/(1 − β)."""
        kept, step = self.beta * (2 - self.beta), self.stepsize * spectrum.convexity
        return greater_root(1 + kept - step, kept - step * self.beta)


def greater_root(trace: float, determinant: float) -> float:
    """The modulus of the greater eigenvalue of a 2 × 2 matrix, of the mean iterate and its momentum."""
    discriminant = trace**2 / 4 - determinant
    return trace / 2 + math.sqrt(discriminant) if discriminant >= 0 else math.sqrt(determinant)
