"""What an algorithm is: pure steps over flat vectors, free of transport and of NVFlare."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Vectors: TypeAlias = "tuple[Tensor, ...]"
"""Flat tensors of one dtype and device; sent as one contiguous message, mixed as one vector."""

Gradient: TypeAlias = "Callable[[Tensor], Tensor]"
"""x (d,) -> (stochastic) gradient of the site's own objective at x, (d,)."""

Mixed: TypeAlias = Callable[[], Vectors]
"""Wait for the in-neighbours and return sum_j w_ij m_j of their messages, shaped like the own message.

Work that does not need the neighbours goes before the call: it then overlaps with the exchange. The vectors
are fresh memory that the algorithm may overwrite: new memory costs more than what is computed in it.
"""


class Weights(Enum):
    """The mixing matrices on which an algorithm is sound."""

    DOUBLY_STOCHASTIC = "doubly stochastic"
    COLUMN_STOCHASTIC = "column stochastic"

    def unsoundness(self, *, row_stochastic: bool, column_stochastic: bool) -> str | None:
        """Why a mixing matrix whose rows or columns sum to one, or not, is none of these; None if it is."""
        if not row_stochastic and self is Weights.DOUBLY_STOCHASTIC:
            return "the rows of the mixing matrix do not sum to one"
        return None if column_stochastic else "the columns of the mixing matrix do not sum to one"


State = TypeVar("State")


class Algorithm(Protocol[State]):
    """A distributed algorithm as one site runs it.

    Implementations are frozen dataclasses whose fields are the hyper-parameters; ``__post_init__`` raises
    ValueError for values outside their range. The state is a NamedTuple of tensors and is never mutated.
    """

    weights: ClassVar[Weights]

    def init(self, x0: Tensor, gradient: Gradient) -> State:
        """State before the first iteration, from the initial point x0 (d,)."""

    def message(self, state: State) -> Vectors:
        """What the out-neighbours get in this iteration."""

    def update(self, state: State, mixed: Mixed, gradient: Gradient) -> State:
        """State after this iteration."""

    def estimate(self, state: State) -> Tensor:
        """The site's current estimate of the solution (d,)."""
