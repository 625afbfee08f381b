"""LED: local exact diffusion."""

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


class LedState(NamedTuple):
    """x: iterate; y: dual variable of the site; both (d,)."""

    x: Tensor
    y: Tensor


@register("led")
@dataclass(frozen=True)
class Led:
    """Φ = X;  K times Φ ← Φ − α∇F(Φ) − Y/K;  X⁺ = (Φ + WΦ)/2,  Y⁺ = Y + Φ − X⁺,  Y⁰ = 0.

    The dual variables sum to zero, and the fixed point is the minimiser itself for every K. An iteration
    sends half of what K-GT does, on symmetric weights that stay the same; with K = 1 it is exact diffusion.

    Attributes:
        stepsize: α > 0, of a local step.
        local_steps: K.
    """

    weights: ClassVar[Weights] = Weights.SYMMETRIC
    exchanges: ClassVar[tuple[Exchange, ...]] = (Exchange(),)
    fixed_point: ClassVar[FixedPoint] = FixedPoint.MINIMISER
    masked: ClassVar[Masked] = Masked("y", "stepsize")
    paper: ClassVar[str] = "Alghunaim 2023, arXiv 2302.00620"
    stepsize: float
    local_steps: int = 1

    def __post_init__(self) -> None:
        require_positive(stepsize=self.stepsize)
        require_count(local_steps=self.local_steps)

    def init(self, x0: Tensor, gradient: Gradient) -> LedState:
        """y⁰ = 0."""
        return LedState(x0, x0.new_zeros(x0.shape))

    def step(self, state: LedState, gradient: Gradient) -> Step[LedState]:
        """The local steps go into the message: communication and computation do not overlap."""
        shift = state.y / self.local_steps
        phi = descend(gradient, state.x, steps=self.local_steps, stepsize=self.stepsize, shift=shift)
        mixed = yield (phi,)
        (wphi,) = mixed()
        x = wphi.add_(phi).div_(2)
        return LedState(x, (state.y + phi).sub_(x))

    def repair(self, state: LedState, x0: Tensor, gradient: Gradient) -> LedState:
        """y = 0, as at the start: then Σy = 0 of those that stay, which the iteration keeps."""
        return LedState(state.x, state.y.new_zeros(state.y.shape))

    def estimate(self, state: LedState) -> Tensor:
        """The iterate x."""
        return state.x

    def invariant(self, states: LedState, gradients: Tensor) -> Vectors:
        """The mean dual variable, which is zero."""
        return (states.y.mean(dim=0),)

    def rate(self, spectrum: Spectrum) -> float:
        """(1 − αμ)ᴷ, to first order in α."""
        return (1 - self.stepsize * spectrum.convexity) ** self.local_steps
