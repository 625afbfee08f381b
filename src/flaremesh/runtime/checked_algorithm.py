"""Algorithms held to the messages that they declare, so that no site waits for what is never sent."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from flaremesh.algorithms import Algorithm, Gradient, Mixed, Repairable, Step, Vectors
from flaremesh.errors import FlaremeshError
from flaremesh.privacy.masks import Masks
from flaremesh.runtime.tree import Tree, shaped


class AlgorithmError(FlaremeshError):
    """An algorithm does not exchange what it declares, or not what a run needs; the message names both."""


class CheckedAlgorithm:
    """An algorithm at one site, from message to message: call ``start`` or ``restore``, then ``begin``.

    Without the check, a site that sends too few messages would be noticed by its neighbours alone, and only
    when they have waited in vain.

    Args:
        algorithm: the algorithm.
        length: d.
        gradient: computes the gradient of the site's objective.
        masks: hide what the site first sends of it; None for none.

    Attributes:
        name: of the algorithm's class.
        exchanges: number of messages of an iteration.
        state: after the last whole iteration.
        message: the next one to be sent.
    """

    def __init__(
        self, algorithm: Algorithm[Any], length: int, gradient: Gradient, masks: Masks | None = None
    ):
        self.name = type(algorithm).__name__
        self.exchanges = len(algorithm.exchanges)
        self._algorithm = algorithm
        self._gradient = gradient
        self._masks = masks
        self._lengths = [exchange.lengths(length) for exchange in algorithm.exchanges]

    @property
    def estimate(self) -> Tensor:
        """The estimate of the solution (d,) after the last whole iteration."""
        return self._algorithm.estimate(self.state)

    def start(self, initial: Tensor) -> None:
        """Start at the initial point (d,).

        Raises:
            AlgorithmError: its state has not what it says may be masked.
        """
        self.state = self._hidden(self._algorithm.init(initial, self._gradient))

    def restore(self, initial: Tensor, state: Tree) -> None:
        """Go on from a state that was kept; the initial point (d,) tells what states look like.

        Raises:
            TreeError: it is no state of this algorithm, or one of vectors of another length.
        """
        self.state = shaped(self._algorithm.init(initial, torch.zeros_like), state, initial.device)

    def repair(self, initial: Tensor) -> None:
        """Go on after sites have left or joined; the initial point (d,) is the site's.

        Raises:
            AlgorithmError: it does not say how; or as ``start`` raises.
        """
        if not isinstance(self._algorithm, Repairable):
            raise AlgorithmError(
                f"{self.name} has no method repair, which says what becomes of its state when sites leave or "
                "join: its run can wait for them (on_loss: wait), but not go on without them"
            )
        self.state = self._hidden(self._algorithm.repair(self.state, initial, self._gradient))

    def resume(self, mixed: Mixed) -> bool:
        """Let the algorithm work up to its next message or to the end of the iteration.

        Args:
            mixed: waits for the mixture of the last message.

        Returns:
            Whether the iteration is over.

        Raises:
            AlgorithmError: the message is not as declared, or is one too many or too few.
        """
        try:
            message = self._step.send(mixed)
        except StopIteration as end:
            if self._sent < self.exchanges:
                raise self._over_early() from None
            self.state = end.value
            return True
        if self._sent == self.exchanges:
            raise AlgorithmError(f"{self.name} declares {self._count()}, and yields another message")
        self._check(message)
        return False

    def begin(self) -> None:
        """Begin the next iteration, up to its first message.

        Raises:
            AlgorithmError: the message is not as declared.
        """
        self._step: Step[Any] = self._algorithm.step(self.state, self._gradient)
        self._sent = 0
        try:
            message = next(self._step)
        except StopIteration:
            raise self._over_early() from None
        self._check(message)

    def _hidden(self, state: Any) -> Any:
        if self._masks is None:
            return state
        if not isinstance(getattr(state, self._masks.field, None), Tensor):
            raise AlgorithmError(
                f"{self.name} says that {self._masks.field} may be masked, and its state has no such vector"
            )
        return self._masks.hide(state)

    def _check(self, message: Vectors) -> None:
        declared = self._lengths[self._sent]
        self._sent += 1
        if not isinstance(message, tuple) or [*map(_length, message)] != declared:
            raise AlgorithmError(
                f"{self.name} yields {_described(message)} in exchange {self._sent}, "
                f"and declares {_lengths(declared)}"
            )
        self.message = message

    def _over_early(self) -> AlgorithmError:
        return AlgorithmError(
            f"{self.name} declares {self._count()}, and its iteration is over after {self._sent}"
        )

    def _count(self) -> str:
        return "1 exchange" if self.exchanges == 1 else f"{self.exchanges} exchanges"


def _length(vector: Any) -> int | None:
    return vector.numel() if isinstance(vector, Tensor) else None


def _described(message: Any) -> str:
    if not isinstance(message, tuple):
        return f"a {type(message).__name__}, no tuple,"
    for vector in message:
        if not isinstance(vector, Tensor):
            return f"a {type(vector).__name__}, no tensor,"
    return _lengths(vector.numel() for vector in message)


def _lengths(lengths: Iterable[int]) -> str:
    return f"vectors of lengths {', '.join(map(str, lengths))}"
