"""NoLoCo: an outer optimiser over a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from flaremesh.algorithms.descent import descend
from flaremesh.algorithms.momentum import greater_root
from flaremesh.algorithms.parameters import require_count, require_fraction, require_positive
from flaremesh.algorithms.protocol import Exchange, FixedPoint, Gradient, Spectrum, Step, Vectors, Weights
from flaremesh.algorithms.registry import register

if TYPE_CHECKING:
    from torch import Tensor


class NolocoState(NamedTuple):
    """x: iterate, the slow weights; m: outer momentum; both (d,)."""

    x: Tensor
    m: Tensor


@register("noloco")
@dataclass(frozen=True)
class Noloco:
    """Z = X;  K inner steps on Z;  M⁺ = aM + bW(Z − X) − b(X − WX),  X⁺ = X + M⁺,  M⁰ = 0.

    DiLoCo's outer momentum without a mean over all sites: instead of with one random site, as in the paper,
    each averages what its inner steps have done, and where they began, with its neighbours. Both averages
    have the same weight b, as in the authors' own code, so that one message, Z, does for both. It ends where
    local-dgd does, b/(1 − a) times as fast while steps are small.

    Attributes:
        stepsize: α > 0, of an inner step: the learning rate, where the problem has an optimiser of its own.
        local_steps: K.
        beta: a in [0, 1), of the outer momentum.
        outer: b > 0, the outer learning rate.
    """

    weights: ClassVar[Weights] = Weights.DOUBLY_STOCHASTIC
    exchanges: ClassVar[tuple[Exchange, ...]] = (Exchange(),)
    fixed_point: ClassVar[FixedPoint] = FixedPoint.NEIGHBOURHOOD
    clippable: ClassVar[bool] = True
    paper: ClassVar[str] = "Kolehmainen et al. 2025, arXiv 2506.10911"
    stepsize: float
    local_steps: int = 1
    beta: float = 0.5
    outer: float = 0.7

    def __post_init__(self) -> None:
        require_positive(stepsize=self.stepsize, outer=self.outer)
        require_fraction(beta=self.beta)
        require_count(local_steps=self.local_steps)

    def init(self, x0: Tensor, gradient: Gradient) -> NolocoState:
        """m⁰ = 0."""
        return NolocoState(x0, x0.new_zeros(x0.shape))

    def step(self, state: NolocoState, gradient: Gradient) -> Step[NolocoState]:
        """m⁺ = am + b(Σ_j w_ij z_j − x)."""
        mixed = yield (descend(gradient, state.x, steps=self.local_steps, stepsize=self.stepsize),)
        (wz,) = mixed()
        m = wz.sub_(state.x).mul_(self.outer).add_(state.m, alpha=self.beta)
        return NolocoState(state.x + m, m)

    def repair(self, state: NolocoState, x0: Tensor, gradient: Gradient) -> NolocoState:
        """The state as it is: from any x and m the iteration leads to the same neighbourhood."""
        return state

    def estimate(self, state: NolocoState) -> Tensor:
        """The iterate x."""
        return state.x

    def invariant(self, states: NolocoState, gradients: Tensor) -> Vectors:
        """Nothing: the mean moves by the mean momentum."""
        return ()

    def rate(self, spectrum: Spectrum) -> float:
        """The greater root of z² − (1 + a − b(1 − (1 − αμ)ᴷ))z + a, to first order in α."""
        descended = 1 - (1 - self.stepsize * spectrum.convexity) ** self.local_steps
        return greater_root(1 + self.beta - self.outer * descended, self.beta)
