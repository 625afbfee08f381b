"""Algorithms held to the messages that they declare, so that no site waits for what is never sent."""

from collections.abc import Iterable, Sequence
from typing import Any

from flaremesh.algorithms import Algorithm, Exchange, Gradient, Mixed, Step
from flaremesh.errors import FlaremeshError


class AlgorithmError(FlaremeshError):
    """An algorithm does not exchange what it declares; the message names the algorithm and the exchange."""


def checked_step(algorithm: Algorithm[Any], state: Any, gradient: Gradient, dimension: int) -> Step[Any]:
    """``algorithm.step``, which sends one message for each of ``algorithm.exchanges``.

    A site that sent fewer messages than its neighbours wait for would be found out by them alone, when their
    patience is over.

    Args:
        algorithm: the algorithm.
        state: see Algorithm.step.
        gradient: see Algorithm.step.
        dimension: d.

    Raises:
        AlgorithmError: a message is not as declared, or is one too many or too few.
    """
    name, exchanges = type(algorithm).__name__, algorithm.exchanges
    step = algorithm.step(state, gradient)
    answer: Mixed | None = None
    for number, exchange in enumerate(exchanges, start=1):
        try:
            # the first call only starts the generator
            message = next(step) if answer is None else step.send(answer)
        except StopIteration:
            raise AlgorithmError(
                f"{name} declares {_count(exchanges)}, and its iteration is over after {number - 1}"
            ) from None
        declared = exchange.lengths(dimension)
        if not isinstance(message, tuple) or [vector.numel() for vector in message] != declared:
            raise AlgorithmError(
                f"{name} yields {_described(message)} in exchange {number}, and declares {_lengths(declared)}"
            )
        answer = yield message
    try:
        step.send(answer)  # type: ignore[arg-type]  # an algorithm has one exchange at least
    except StopIteration as end:
        return end.value
    raise AlgorithmError(f"{name} declares {_count(exchanges)}, and yields another message")


def _count(exchanges: Sequence[Exchange]) -> str:
    return "1 exchange" if len(exchanges) == 1 else f"{len(exchanges)} exchanges"


def _described(message: Any) -> str:
    if isinstance(message, tuple):
        return _lengths(vector.numel() for vector in message)
    return f"a {type(message).__name__}, no tuple,"


def _lengths(lengths: Iterable[int]) -> str:
    return f"vectors of lengths {', '.join(map(str, lengths))}"
