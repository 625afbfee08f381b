"""How often an algorithm asks for a gradient, and how far one moves it: found by running it with one site."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flaremesh.algorithms import Algorithm
from flaremesh.privacy.accounting import PrivacyError, Queries

_SETTLED = 200  # iterations after which momentum no longer builds up


def queries_of(algorithm: Algorithm[Any]) -> Queries:
    """What `Queries` says of an algorithm, which is run on its own with a constant gradient.

    Raises:
        PrivacyError: it asks for more gradients in one iteration than in another.
    """
    counts, speed = _run(algorithm, 1.0)
    first, *later = counts
    if len(set(later)) != 1:
        raise PrivacyError(
            f"{type(algorithm).__name__} asks for {min(later)} to {max(later)} gradients in an iteration, "
            "and a privacy budget needs to know how many"
        )
    _, double = _run(algorithm, 2.0)
    linear = abs(double - 2 * speed) <= 1e-6 * abs(speed)
    return Queries(first, later[0], abs(speed) / later[0] if linear and later[0] else None)


def _run(algorithm: Algorithm[Any], slope: float) -> tuple[list[int], float]:
    """Queries before the first iteration and in each, and how far the last one moved the estimate."""
    asked = 0

    def gradient(x: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        return torch.full_like(x, slope)

    state = algorithm.init(torch.zeros(1, dtype=torch.float64), gradient)
    counts, before = [], torch.zeros(1)
    step = algorithm.step(state, gradient)
    message = next(step)
    for _ in range(_SETTLED):
        counts.append(asked)
        asked = 0
        before = algorithm.estimate(state).clone()
        try:
            while True:
                message = step.send(_received(message))
        except StopIteration as end:
            state = end.value
        step = algorithm.step(state, gradient)  # what precedes its first message is part of this iteration
        message = next(step)
    counts.append(asked)
    return counts, float(algorithm.estimate(state) - before)


def _received(message: tuple[Tensor, ...]) -> Callable[[], tuple[Tensor, ...]]:
    """The mixture of a single site: what it has sent, in memory of its own."""
    return lambda: tuple(vector.clone() for vector in message)
