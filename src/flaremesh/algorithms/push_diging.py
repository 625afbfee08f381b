"""Push-DIGing: gradient tracking on directed graphs."""

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


class PushDigingState(NamedTuple):
    """u: the site's share of the sum, (d,); v: its push-sum weight, (1,); y: tracker; g: gradient; (d,)."""

    u: Tensor
    v: Tensor
    y: Tensor
    g: Tensor


@register("push-diging")
@dataclass(frozen=True)
class PushDiging:
    """U⁺ = P(U − αY),  v⁺ = Pv,  X⁺ = U⁺/v⁺,  Y⁺ = PY + ∇F(X⁺) − ∇F(X),  v⁰ = 1,  Y⁰ = ∇F(X⁰).

    P is column stochastic with a positive diagonal, on a strongly connected graph. All that is sent goes in
    one message: the tracker must have been weighted as the shares were.

    Attributes:
        stepsize: α > 0.
    """

    weights: ClassVar[Weights] = Weights.COLUMN_STOCHASTIC
    exchanges: ClassVar[tuple[Exchange, ...]] = (Exchange(vectors=2, scalars=1),)
    fixed_point: ClassVar[FixedPoint] = FixedPoint.MINIMISER
    masked: ClassVar[Masked] = Masked("y")
    paper: ClassVar[str] = "Nedić, Olshevsky and Shi 2017, arXiv 1607.03218, algorithm 3"
    stepsize: float

    def __post_init__(self) -> None:
        require_positive(stepsize=self.stepsize)

    def init(self, x0: Tensor, gradient: Gradient) -> PushDigingState:
        """u⁰ = x⁰, v⁰ = 1, y⁰ = ∇f(x⁰)."""
        g = gradient(x0)
        return PushDigingState(x0, x0.new_ones(1), g, g)

    def step(self, state: PushDigingState, gradient: Gradient) -> Step[PushDigingState]:
        """u⁺ = Σ_j p_ij(u_j − αy_j), v⁺ = Σ_j p_ij v_j, then y⁺ = Σ_j p_ij y_j + ∇f(x⁺) − ∇f(x)."""
        mixed = yield state.u.sub(state.y, alpha=self.stepsize), state.y, state.v
        u, py, v = mixed()
        g = gradient(u / v)
        return PushDigingState(u, v, py.add_(g).sub_(state.g), g)

    def repair(self, state: PushDigingState, x0: Tensor, gradient: Gradient) -> PushDigingState:
        """u = x, v = 1, y = ∇f(x), as at a start from x: then Σv = n and Σy = Σ∇f(x) of those that stay."""
        return PushDigingState(self.estimate(state), state.v.new_ones(1), state.g, state.g)

    def estimate(self, state: PushDigingState) -> Tensor:
        """x = u/v."""
        return state.u / state.v

    def invariant(self, states: PushDigingState, gradients: Tensor) -> Vectors:
        """The mean of v, and the mean tracker less the mean gradient, which is zero."""
        return states.v.mean(dim=0), (states.y - gradients).mean(dim=0)

    def rate(self, spectrum: Spectrum) -> float:
        """1 − αμ, to first order in α."""
        return 1 - self.stepsize * spectrum.convexity
