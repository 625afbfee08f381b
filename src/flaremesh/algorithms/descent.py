"""The steps that a site takes by itself between two exchanges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from flaremesh.algorithms.protocol import Gradient

if TYPE_CHECKING:
    from torch import Tensor

Train: TypeAlias = "Callable[[Tensor, int, float, Tensor | None], Tensor]"
"""Takes x, steps, stepsize and shift as `descend` does, and returns z (d,) in fresh memory."""


@dataclass(frozen=True)
class OwnDescent:
    """The gradient of a site whose problem takes its local steps itself.

    Attributes:
        gradient: x (d,) -> gradient of the site's objective, (d,).
        train: takes the steps.
    """

    gradient: Gradient
    train: Train

    def __call__(self, x: Tensor) -> Tensor:
        """The gradient at x."""
        return self.gradient(x)


def descend(
    gradient: Gradient, x: Tensor, *, steps: int, stepsize: float, shift: Tensor | None = None
) -> Tensor:
    """Z = X;  ``steps`` times Z ← Z − α∇F(Z) − S.

    Where the site's problem takes its steps itself, with an optimiser or a script of its own, what that does
    takes the place of −α∇F(Z), and α is the learning rate.

    Args:
        gradient: that of the site's objective.
        x: where it begins, (d,).
        steps: so many.
        stepsize: α.
        shift: S (d,), by which an algorithm corrects each step; None for none.

    Returns:
        Z (d,) in fresh memory.
    """
    if isinstance(gradient, OwnDescent):
        return gradient.train(x, steps, stepsize, shift)
    z = x
    for _ in range(steps):
        z = z.sub(gradient(z), alpha=stepsize)
        if shift is not None:
            z.sub_(shift)
    return z
