"""What an algorithm is: pure steps over flat vectors, free of transport and of NVFlare."""

from __future__ import annotations

from collections.abc import Callable, Generator
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

Vectors: TypeAlias = "tuple[Tensor, ...]"
"""Flat tensors of one dtype and device, which make up one message."""

Gradient: TypeAlias = "Callable[[Tensor], Tensor]"
"""x (d,) -> (stochastic) gradient of the site's own objective at x, (d,)."""

Mixed: TypeAlias = Callable[[], Vectors]
"""Wait for the in-neighbours and return sum_j w_ij m_j over all messages m_j, shaped like the own message.

To be called once. The algorithm may overwrite the vectors that it returns, which saves new memory.
"""

State = TypeVar("State")

Step: TypeAlias = Generator[Vectors, Mixed, State]
"""One iteration. Each ``yield`` sends a message to the out-neighbours, and its value waits for the mixture:

    mixed = yield (x, y)  # the message is on its way
    ...                   # work that overlaps with the exchange
    wx, wy = mixed()      # the in-neighbours' messages are there

Several exchanges may be under way at once. A site can wait only for an exchange in which it has sent its own
message, so that sites that run the same algorithm never wait for each other in a circle.
"""


class Weights(Enum):
    """The mixing matrices on which an algorithm is sound."""

    SYMMETRIC = "constant, symmetric and doubly stochastic"
    DOUBLY_STOCHASTIC = "doubly stochastic"
    COLUMN_STOCHASTIC = "column stochastic"

    def unsoundness(
        self, *, row_stochastic: bool, column_stochastic: bool, symmetric: bool, phases: int
    ) -> str | None:
        """Why mixing matrices do not meet this condition; None if they do.

        Args:
            row_stochastic: whether their rows sum to one.
            column_stochastic: whether their columns do.
            symmetric: whether they are.
            phases: how many take turns.
        """
        if not row_stochastic and self is not Weights.COLUMN_STOCHASTIC:
            return "the rows of the mixing matrix do not sum to one"
        if not column_stochastic:
            return "the columns of the mixing matrix do not sum to one"
        if self is not Weights.SYMMETRIC:
            return None
        if phases > 1:
            return f"{phases} mixing matrices take turns"
        return None if symmetric else "the mixing matrix is not symmetric"


class Exchange(NamedTuple):
    """What the message of one exchange holds, in this order.

    Attributes:
        vectors: number of vectors (d,).
        scalars: number of vectors (1,).
        averaged: how many of the first vectors a site mixes not with the graph's weights, but to the mean of
            its own and its in-neighbours': rows that sum to one, where the graph's columns do.
        sums: so many of the last of all these are shares of a sum over all sites, which mixing must not
            change, as gradient trackers are; the others are values, of which mixing takes an average. In a
            run that waits for nobody that makes a difference.
    """

    vectors: int = 1
    scalars: int = 0
    averaged: int = 0
    sums: int = 0

    def lengths(self, d: int) -> list[int]:
        """The lengths of the message's vectors."""
        return [d] * self.vectors + [1] * self.scalars


class Masked(NamedTuple):
    """What a run may mask when it starts and after ``repair``: a share of a sum over all sites.

    Only this sum is relied on, so that vectors that sum to zero over the sites may be added to the shares.

    Attributes:
        field: of the state, (d,).
        factor: name of the hyper-parameter by which a gradient is multiplied in it; None for none.
    """

    field: str
    factor: str | None = None


class Algorithm(Protocol[State]):
    """A distributed algorithm as one site runs it.

    Implementations are frozen dataclasses whose fields are the hyper-parameters; ``__post_init__`` raises
    ValueError for values outside their range. The state is a NamedTuple of tensors and is never mutated.

    Attributes:
        weights: the mixing matrices on which it is sound.
        exchanges: the messages of every iteration, in the order in which ``step`` yields them.

    One whose class itself says ``asynchronous = True`` is sound where no site waits for another one, too; it
    has one exchange, and says which of its vectors are shares of sums.

    A class attribute ``clippable = True`` says that it relies on no sum over all sites, such as the mean of
    trackers: then a run may clip what neighbours send, which keeps no sum.

    A class attribute ``masked``, of class Masked, says which part of the state may be masked at the start, so
    that no message is a site's gradient alone.
    """

    weights: ClassVar[Weights]
    exchanges: ClassVar[tuple[Exchange, ...]]

    def init(self, x0: Tensor, gradient: Gradient) -> State:
        """State before the first iteration, from the initial point x0 (d,)."""

    def step(self, state: State, gradient: Gradient) -> Step[State]:
        """One iteration; returns the state after it.

        What precedes the first ``yield`` is run at the end of the iteration before.
        """

    def estimate(self, state: State) -> Tensor:
        """The site's current estimate of the solution (d,)."""


@runtime_checkable
class Repairable(Algorithm[State], Protocol[State]):
    """An algorithm that goes on when sites leave or join, and leads where those that stay would have it."""

    def repair(self, state: State, x0: Tensor, gradient: Gradient) -> State:
        """What a site's state becomes when sites go on from the same iteration without some, or with more.

        Whatever sums over all sites the equations rely on must hold for those that take part now: what others
        had put into them, or taken out, is gone with them, and who joins has put nothing into them. Where
        nothing is relied on, it is the state as it is.

        Args:
            state: after a whole iteration of all sites, or what ``init`` returns at a site that joins.
            x0: the site's initial point (d,).
            gradient: as in ``step``.
        """


class FixedPoint(Enum):
    """Where all sites' estimates converge, on sound weights and with a step that is small enough."""

    MEAN = "the mean of the initial points"
    MINIMISER = "the minimiser of the sum of all objectives"
    NEIGHBOURHOOD = "a point whose distance from that minimiser is proportional to the step size"


class Spectrum(NamedTuple):
    """What rates are functions of.

    Attributes:
        mixing: second greatest modulus of the eigenvalues of W.
        convexity: μ, strong convexity of the mean objective.
    """

    mixing: float
    convexity: float


class Analysed(Repairable[State], Protocol[State]):
    """An algorithm that says what theory promises of it, as all registered ones do.

    Attributes:
        fixed_point: where it leads.
        paper: that published it.
    """

    fixed_point: ClassVar[FixedPoint]
    paper: ClassVar[str]

    def invariant(self, states: State, gradients: Tensor) -> Vectors:
        """What no iteration changes, even with a lossy wire; empty if there is no such thing.

        Args:
            states: those of all sites, stacked: each field is (n, d).
            gradients: of the sites' objectives at their estimates, (n, d).
        """

    def rate(self, spectrum: Spectrum) -> float | None:
        """The factor by which the distance from the fixed point shrinks per iteration in the end.

        None where theory promises a linear rate without saying which.
        """
