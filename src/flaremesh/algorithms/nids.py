"""NIDS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from flaremesh.algorithms.exact_diffusion import ExactDiffusion, ExactDiffusionState
from flaremesh.algorithms.protocol import Gradient
from flaremesh.algorithms.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("nids")
@dataclass(frozen=True)
class Nids(ExactDiffusion):
    """X⁺ = (I + W)/2 (2X − X₋ − α(∇F(X) − ∇F(X₋))),  X¹ = X⁰ − α∇F(X⁰).

    With Ψ = X₋ − α∇F(X₋) that is how exact diffusion goes on, from one gradient step that nobody mixes. That
    step is taken before the first exchange, so that the first estimate is X¹. α < 2/L does on every network.
    """

    paper: ClassVar[str] = "Li, Shi and Yan 2019, arXiv 1704.07807"

    def init(self, x0: Tensor, gradient: Gradient) -> ExactDiffusionState:
        """x¹ = ψ = x⁰ − α∇f(x⁰)."""
        x = x0.sub(gradient(x0), alpha=self.stepsize)
        return ExactDiffusionState(x, x)
