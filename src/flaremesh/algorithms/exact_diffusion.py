"""Exact diffusion."""

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


class ExactDiffusionState(NamedTuple):
    """x: iterate; psi: the last iterate after its gradient step, before it was mixed; both (d,)."""

    x: Tensor
    psi: Tensor


@register("exact-diffusion")
@dataclass(frozen=True)
class ExactDiffusion:
    """Ψ⁺ = X − α∇F(X),  Φ = Ψ⁺ + X − Ψ,  X⁺ = (Φ + WΦ)/2,  Ψ⁰ = X⁰.

    After its first iteration it is NIDS (Li, Shi and Yan 2019, 1704.07807). α < 2/L does on every network.

    Attributes:
        stepsize: α > 0.
    """

    weights: ClassVar[Weights] = Weights.SYMMETRIC
    exchanges: ClassVar[tuple[Exchange, ...]] = (Exchange(),)
    fixed_point: ClassVar[FixedPoint] = FixedPoint.MINIMISER
    masked: ClassVar[Masked] = Masked("psi", "stepsize")
    paper: ClassVar[str] = "Yuan, Ying, Zhao and Sayed 2019, arXiv 1702.05122"
    stepsize: float

    def __post_init__(self) -> None:
        require_positive(stepsize=self.stepsize)

    def init(self, x0: Tensor, gradient: Gradient) -> ExactDiffusionState:
        """ψ⁰ = x⁰: nothing is corrected yet."""
        return ExactDiffusionState(x0, x0)

    def step(self, state: ExactDiffusionState, gradient: Gradient) -> Step[ExactDiffusionState]:
        """The gradient goes into the message: communication and computation do not overlap."""
        psi = state.x.sub(gradient(state.x), alpha=self.stepsize)
        phi = (psi + state.x).sub_(state.psi)
        mixed = yield (phi,)
        (wphi,) = mixed()
        return ExactDiffusionState(wphi.add_(phi).div_(2), psi)

    def repair(self, state: ExactDiffusionState, x0: Tensor, gradient: Gradient) -> ExactDiffusionState:
        """ψ = x, as at the start: then Σψ = Σx of those that stay, which the iteration keeps."""
        return ExactDiffusionState(state.x, state.x)

    def estimate(self, state: ExactDiffusionState) -> Tensor:
        """The iterate x."""
        return state.x

    def invariant(self, states: ExactDiffusionState, gradients: Tensor) -> Vectors:
        """The mean of x − ψ, which is zero: the mean moves by the mean gradient."""
        return ((states.x - states.psi).mean(dim=0),)

    def rate(self, spectrum: Spectrum) -> float:
        """1 − αμ, to first order in α."""
        return 1 - self.stepsize * spectrum.convexity
