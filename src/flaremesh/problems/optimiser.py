"""A torch optimiser that takes a site's local steps."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

MakeOptimizer: TypeAlias = Callable[..., Optimizer]
"""Called with the trainable parameters and ``lr``: a class of torch.optim, or a partial of one."""

MakeSchedule: TypeAlias = Callable[[Optimizer], LRScheduler]


class LocalOptimizer:
    """An optimiser over a module's parameters, with its schedule; it is made for the first step.

    What it has learnt (moments, the position in the schedule) stays at its site from exchange to exchange.

    Args:
        parameters: what it changes, in place.
        optimizer: makes it.
        schedule: makes its learning rate's schedule, which goes on by one with every step; None for none.

    Raises:
        TypeError: either is no function.
        ValueError: ``optimizer`` has a learning rate already.
    """

    def __init__(
        self, parameters: list[Parameter], optimizer: MakeOptimizer, schedule: MakeSchedule | None = None
    ):
        if not callable(optimizer) or isinstance(optimizer, Optimizer):
            raise TypeError(
                "optimizer takes no parameters and lr: give a class of torch.optim, or a partial of one"
            )
        if isinstance(optimizer, partial) and "lr" in optimizer.keywords:
            raise ValueError(
                "the optimizer's learning rate is the run's stepsize: leave lr out of its partial"
            )
        if schedule is not None and not callable(schedule):
            raise TypeError("schedule is no function of an optimizer: give a partial of a torch scheduler")
        self._parameters, self._make, self._make_schedule = parameters, optimizer, schedule
        self._optimizer: Optimizer | None = None
        self._schedule: LRScheduler | None = None
        self._kept: Mapping[str, Any] | None = None

    def step(self, stepsize: float, loss_and_backward: Callable[[], Tensor]) -> tuple[Tensor, float]:
        """One step.

        Args:
            stepsize: the learning rate at the beginning of the schedule; the same at each call.
            loss_and_backward: computes the loss and leaves its gradient at the parameters; optimisers such as
                LBFGS call it several times.

        Returns:
            The loss before the step, and what of the stepsize the schedule has left of the learning rate.
        """
        optimizer = self._optimizer or self._begin(stepsize)
        left = float(optimizer.param_groups[0]["lr"]) / stepsize
        losses: list[Tensor] = []

        def closure() -> Tensor:
            with torch.enable_grad():
                losses.append(loss_and_backward())
            return losses[-1]

        optimizer.step(closure)  # type: ignore[arg-type]  # torch says float; its optimisers take tensors
        if isinstance(self._schedule, ReduceLROnPlateau):
            self._schedule.step(losses[0])
        elif self._schedule is not None:
            self._schedule.step()
        return losses[0], left

    def snapshot(self) -> Mapping[str, Any] | None:
        """What the optimiser and its schedule have learnt; None before the first step."""
        if self._optimizer is None:
            return self._kept
        return {
            "optimizer": self._optimizer.state_dict(),
            "schedule": None if self._schedule is None else self._schedule.state_dict(),
        }

    def restore(self, snapshot: Mapping[str, Any] | None) -> None:
        """Take it up again, with the first step that comes."""
        self._optimizer, self._schedule, self._kept = None, None, snapshot

    def _begin(self, stepsize: float) -> Optimizer:
        self._optimizer = optimizer = self._make(self._parameters, lr=stepsize)
        if self._make_schedule is not None:
            self._schedule = self._make_schedule(optimizer)
        if self._kept is not None:
            optimizer.load_state_dict(dict(self._kept["optimizer"]))
            if self._schedule is not None:
                self._schedule.load_state_dict(dict(self._kept["schedule"]))
            self._kept = None
        return optimizer
