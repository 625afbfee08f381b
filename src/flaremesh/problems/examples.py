"""The gradient of each example of a batch, which Opacus has a module keep, and their clipped sum."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from flaremesh.problems.batches import Batches


def gives_each_once(batches: Iterable[Any]) -> bool:
    """Whether no example comes twice in a batch, as far as the kind of loader tells."""
    if type(batches) is Batches:
        return True
    if type(batches) is not DataLoader or batches.batch_sampler is None:
        return False
    sampler = batches.sampler
    return type(sampler) is SequentialSampler or (type(sampler) is RandomSampler and not sampler.replacement)


class ExampleGradients:
    """Has a module keep the gradient of each example, from its next backward pass in train mode on.

    The loss must be the mean over the examples, each of which the module treats by itself.

    Args:
        module: the module; it gets hooks.
        parameters: those of its parameters that are trained.

    Raises:
        ImportError: Opacus is not installed.
        ValueError: the module has parts that mix examples, or of which Opacus knows no such gradient.
    """

    def __init__(self, module: Module, parameters: Sequence[Parameter]):
        from opacus import GradSampleModule
        from opacus.validators import ModuleValidator

        if errors := ModuleValidator.validate(module, strict=False):
            raise ValueError(f"the model gives no gradient of each example: {errors[0]}")
        GradSampleModule(module, loss_reduction="mean")
        self._parameters: list[Any] = list(parameters)  # Opacus hangs an attribute on them

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of the loss's examples."""
        with warnings.catch_warnings():
            # inputs need no gradient, and torch says so of every hook
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    @torch.no_grad()
    def clipped_sum(self, clip: float) -> list[Tensor]:
        """Sums over the examples, whose gradients are scaled down to the 2-norm ``clip`` over all parameters.

        One that is not finite counts as zero.

        Returns:
            One tensor for each parameter, in its shape; the gradients are dropped.
        """
        kept = [getattr(parameter, "grad_sample", None) for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = parameter.grad_sample = None
        norms = [each.flatten(1).norm(dim=1) for each in kept if each is not None]
        if not norms:
            raise ValueError("no gradient arrives: the loss depends on none of the trainable parameters")
        norm = torch.stack(norms).norm(dim=0)
        share = torch.where(norm.isfinite(), (clip / norm).clamp(max=1.0).nan_to_num(1.0), 0.0)
        return [
            torch.zeros_like(parameter)
            if each is None
            else torch.einsum(
                "n,n...->...", share, each if bool(norm.isfinite().all()) else each.nan_to_num(0, 0, 0)
            )
            for parameter, each in zip(self._parameters, kept, strict=True)
        ]
