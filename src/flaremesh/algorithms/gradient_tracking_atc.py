"""Gradient tracking, adapt then combine (NEXT)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flaremesh.algorithms.gradient_tracking import GradientTracking, GradientTrackingState
from flaremesh.algorithms.protocol import Exchange, Gradient, Step
from flaremesh.algorithms.registry import register


@register("gradient-tracking-atc")
@dataclass(frozen=True)
class GradientTrackingAtc(GradientTracking):
    """X⁺ = W(X − αY), then Y⁺ = W(Y + ∇F(X⁺) − ∇F(X)),  Y⁰ = ∇F(X⁰).

    Unlike in GradientTracking, the neighbours mix a site's step in the same iteration. The second message
    needs the gradient at the first mixture, so that an iteration waits for the neighbours twice.
    """

    exchanges: ClassVar[tuple[Exchange, ...]] = (Exchange(), Exchange())
    paper: ClassVar[str] = "Di Lorenzo and Scutari 2016, arXiv 1602.00591"

    def step(self, state: GradientTrackingState, gradient: Gradient) -> Step[GradientTrackingState]:
        """x⁺ = Σ_j w_ij (x_j − αy_j), then y⁺ = Σ_j w_ij (y_j + ∇f_j(x_j⁺) − ∇f_j(x_j))."""
        mixed = yield (state.x.sub(state.y, alpha=self.stepsize),)
        (x,) = mixed()
        g = gradient(x)
        mixed = yield (state.y.add(g).sub_(state.g),)
        (y,) = mixed()
        return GradientTrackingState(x, y, g)
