"""R-FAST: gradient tracking in which no site waits for another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

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


class RFastState(NamedTuple):
    """x: iterate; z: gradient tracker; g: gradient at x; all (d,)."""

    x: Tensor
    z: Tensor
    g: Tensor


@register("r-fast")
@dataclass(frozen=True)
class RFast:
    """K − 1 times X ← X − αZ, Z ← Z + ∇F(X⁺) − ∇F(X);  then X⁺ = W(X − αZ), Z⁺ = WZ + ∇F(X⁺) − ∇F(X),
    Z⁰ = ∇F(X⁰).

    The trackers, with what is under way of them, sum up to the gradients whoever is late, so that all sites
    come to the minimiser each at its own pace. The paper sends running sums of the trackers, of which lost
    messages lose nothing; links that lose no message need none.

    Attributes:
        stepsize: α > 0.
        local_steps: K, gradients of an iteration.
    """

    weights: ClassVar[Weights] = Weights.DOUBLY_STOCHASTIC
    exchanges: ClassVar[tuple[Exchange, ...]] = (Exchange(vectors=2, sums=1),)
    fixed_point: ClassVar[FixedPoint] = FixedPoint.MINIMISER
    masked: ClassVar[Masked] = Masked("z")
    paper: ClassVar[str] = "Zhu, Tian, Huang, Xu and He 2023, arXiv 2307.11617, algorithm 1"
    asynchronous: ClassVar[bool] = True
    stepsize: float
    local_steps: int = 1

    def __post_init__(self) -> None:
        require_positive(stepsize=self.stepsize)
        require_count(local_steps=self.local_steps)

    def init(self, x0: Tensor, gradient: Gradient) -> RFastState:
        """z⁰ = ∇f(x⁰)."""
        g = gradient(x0)
        return RFastState(x0, g, g)

    def step(self, state: RFastState, gradient: Gradient) -> Step[RFastState]:
        """The local steps go into the message: communication and computation do not overlap."""
        x, z, g = state
        for _ in range(self.local_steps - 1):
            x = x.sub(z, alpha=self.stepsize)
            before, g = g, gradient(x)
            z = z.add(g).sub_(before)
        mixed = yield x.sub(z, alpha=self.stepsize), z
        x, wz = mixed()
        before, g = g, gradient(x)
        return RFastState(x, wz.add_(g).sub_(before), g)

    def repair(self, state: RFastState, x0: Tensor, gradient: Gradient) -> RFastState:
        """z = ∇f(x), as at the start: then Σz = Σ∇f(x) of those that stay, which the iteration keeps."""
        return RFastState(state.x, state.g, state.g)

    def estimate(self, state: RFastState) -> Tensor:
        """The iterate x."""
        return state.x

    def invariant(self, states: RFastState, gradients: Tensor) -> Vectors:
        """The mean tracker less the mean gradient, which is zero."""
        return ((states.z - gradients).mean(dim=0),)

    def rate(self, spectrum: Spectrum) -> float:
        """(1 − αμ)ᴷ, to first order in α."""
        return (1 - self.stepsize * spectrum.convexity) ** self.local_steps
