"""Push-pull (AB): gradient tracking on directed graphs without push-sum weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flaremesh.algorithms.gradient_tracking import GradientTracking, GradientTrackingState
from flaremesh.algorithms.protocol import Exchange, Gradient, Spectrum, Step, Weights
from flaremesh.algorithms.registry import register


@register("push-pull")
@dataclass(frozen=True)
class PushPull(GradientTracking):
    """X⁺ = R(X − αY),  Y⁺ = CY + ∇F(X⁺) − ∇F(X),  Y⁰ = ∇F(X⁰).

    Sites push their trackers with the graph's column stochastic C, which keeps the sum of the gradients, and
    pull iterates with R, each row of which is the mean of a site's own and its in-neighbours'. Nothing is
    divided by a weight that may become small. A step comes to α n πᵀν of the mean gradient, with πᵀR = πᵀ,
    Cν = ν and sums of one; where all sites have as many neighbours that is α.
    """

    weights: ClassVar[Weights] = Weights.COLUMN_STOCHASTIC
    exchanges: ClassVar[tuple[Exchange, ...]] = (Exchange(vectors=2, averaged=1),)
    paper: ClassVar[str] = "Pu, Shi, Xu and Nedić 2018, arXiv 1810.06653; Xin and Khan 2018, arXiv 1803.02503"

    def step(self, state: GradientTrackingState, gradient: Gradient) -> Step[GradientTrackingState]:
        """x⁺ = Σ_j r_ij (x_j − αy_j), then y⁺ = Σ_j c_ij y_j + ∇f(x⁺) − ∇f(x)."""
        mixed = yield state.x.sub(state.y, alpha=self.stepsize), state.y
        x, cy = mixed()
        g = gradient(x)
        return GradientTrackingState(x, cy.add_(g).sub_(state.g), g)

    def rate(self, spectrum: Spectrum) -> None:
        """It depends on R, too: see above."""
