"""Push-sum with running sums, which loses nothing when messages are lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from flaremesh.algorithms.protocol import Exchange, FixedPoint, Gradient, Spectrum, Step, Vectors, Weights
from flaremesh.algorithms.registry import register

if TYPE_CHECKING:
    from torch import Tensor


class RobustPushSumState(NamedTuple):
    """What a site holds, has sent on, and has received; x, sent, got: (d,); w, w_sent, w_got: (1,).

    x, w: as in push-sum; sent, w_sent: the sums of all that it has ever held; got, w_got: the shares of the
    in-neighbours' sums that have arrived.
    """

    x: Tensor
    w: Tensor
    sent: Tensor
    w_sent: Tensor
    got: Tensor
    w_got: Tensor


@register("robust-push-sum")
@dataclass(frozen=True)
class RobustPushSum:
    """S⁺ = S + X,  R⁺ = PS⁺,  X⁺ = R⁺ − R,  S⁰ = R⁰ = 0, and so for w⁰ = 1;  z_i = x_i/w_i.

    A message holds the sum of all that a site has ever had to share, and who receives one takes what it has
    grown by since the last that came. Where a message is lost, and the last one mixed again, its mass comes
    with the next. As no message is lost between flaremesh's sites, it is push-sum there. The sums grow as the
    iterations do, and what they are rounded by is left in z: wires should be exact or keep public copies.
    """

    weights: ClassVar[Weights] = Weights.COLUMN_STOCHASTIC
    exchanges: ClassVar[tuple[Exchange, ...]] = (Exchange(vectors=1, scalars=1),)
    fixed_point: ClassVar[FixedPoint] = FixedPoint.MEAN
    paper: ClassVar[str] = "Hadjicostis, Vaidya and Domínguez-García 2016"

    def init(self, x0: Tensor, gradient: Gradient) -> RobustPushSumState:
        """x⁰ is the site's own value, w⁰ = 1."""
        w, zero, w_zero = x0.new_ones(1), x0.new_zeros(x0.shape), x0.new_zeros(1)
        return RobustPushSumState(x0, w, zero, w_zero, zero, w_zero)

    def step(self, state: RobustPushSumState, gradient: Gradient) -> Step[RobustPushSumState]:
        """s⁺ = s + x, r⁺ = Σ_j p_ij s_j⁺, x⁺ = r⁺ − r; likewise for w."""
        sent, w_sent = state.sent + state.x, state.w_sent + state.w
        mixed = yield sent, w_sent
        got, w_got = mixed()
        return RobustPushSumState(got - state.got, w_got - state.w_got, sent, w_sent, got, w_got)

    def repair(self, state: RobustPushSumState, x0: Tensor, gradient: Gradient) -> RobustPushSumState:
        """The start again: the sums would tell what others took along, but w might be zero on the way."""
        return self.init(x0, gradient)

    def estimate(self, state: RobustPushSumState) -> Tensor:
        """z = x/w."""
        return state.x / state.w

    def invariant(self, states: RobustPushSumState, gradients: Tensor) -> Vectors:
        """The means of x and w, where no message is under way."""
        return states.x.mean(dim=0), states.w.mean(dim=0)

    def rate(self, spectrum: Spectrum) -> float:
        """|λ₂(P)|, where no message is lost."""
        return spectrum.mixing
