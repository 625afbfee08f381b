"""A torch module, a loss and batches as a problem over one flat vector."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from flaremesh.problems.protocol import SiteContext

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Inputs and targets, first dimension the batch."""


class Batches:
    """Mini-batches of tensors in memory, in a new order at each pass.

    Args:
        inputs: (m, ...).
        targets: (m, ...).
        size: samples in a batch; None is one batch of all samples.
        generator: draws the order; None keeps it.
    """

    def __init__(
        self, inputs: Tensor, targets: Tensor, size: int | None = None, generator: Generator | None = None
    ):
        if size is not None and size < 1:
            raise ValueError(f"the batch size must be at least 1, not {size}")
        self._inputs = inputs
        self._targets = targets
        self._size = size
        self._generator = generator

    def __iter__(self) -> Iterator[Batch]:
        if self._size is None:
            yield self._inputs, self._targets
        elif self._generator is None:
            yield from zip(
                torch.split(self._inputs, self._size), torch.split(self._targets, self._size), strict=True
            )
        else:
            order = torch.randperm(len(self._inputs), generator=self._generator)
            for chosen in torch.split(order, self._size):
                yield self._inputs[chosen], self._targets[chosen]


class ModuleProblem:
    """Trains a torch module: x is the concatenation of its trainable parameters.

    Parameters, their gradients and the floating-point buffers are views of three flat tensors, so that no
    step loops over layers. Frozen parameters stay as they are; unused ones have a zero gradient.

    Args:
        site: where the problem lives.
        model: builds the module with the run's seed, so that all sites start from the same point; a module is
            taken as it is.
        loss: (outputs, targets) -> mean loss over the batch, a 0-d tensor.
        train: batches of (inputs, targets), iterated over again and again: a DataLoader or Batches.
        test: batches for evaluation; without any there are no metrics.
        device: where to compute; default a GPU if there is one.

    Raises:
        ValueError: nothing to train, or no training data.
    """

    def __init__(
        self,
        site: SiteContext,
        model: Module | Callable[[], Module],
        loss: Callable[[Tensor, Tensor], Tensor],
        train: Iterable[Batch],
        test: Iterable[Batch] = (),
        device: str | None = None,
    ):
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        module = model if isinstance(model, Module) else _built(model, site.seed)
        self._module = module.to(self._device).train()
        self._loss = loss
        self._batches = _endless(train)
        self._test = test

        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if not trainable:
            raise ValueError("the model has no trainable parameters")
        self._x = _flattened(trainable)
        self._gradient = torch.zeros_like(self._x)
        sizes = [parameter.numel() for parameter in trainable]
        for parameter, gradient in zip(trainable, torch.split(self._gradient, sizes), strict=True):
            parameter.grad = gradient.view_as(parameter)  # backward() accumulates into it in place
        floating = [buffer for buffer in module.buffers() if buffer.dtype == self._x.dtype]
        self._buffers = _flattened(floating) if floating else None

    def initial(self) -> Tensor:
        """The module's parameters as they are now, (d,)."""
        return self._x.clone()

    def start_at(self, x: Tensor) -> None:
        """Make x (d,) the initial point."""
        self._load(x)

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and gradient (d,) on the next mini-batch, in train mode."""
        self._load(x)
        inputs, targets = self._on_device(next(self._batches))
        self._gradient.zero_()
        loss = self._loss(self._module(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss.detach(), self._gradient.clone()

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> Mapping[str, float]:
        """Mean ``loss`` on the test batches and ``accuracy`` where targets are class labels; in eval mode."""
        self._load(x)
        self._module.eval()
        try:
            return _metrics(self._scored(self._on_device(batch)) for batch in self._test)
        finally:
            self._module.train()

    def buffers(self) -> Tensor | None:
        """The floating-point buffers (BatchNorm's statistics) as one flat view, or None."""
        return self._buffers

    def state(self, x: Tensor) -> Mapping[str, Tensor]:
        """The module's state_dict at x, copied to the CPU."""
        self._load(x)
        return {name: value.detach().cpu().clone() for name, value in self._module.state_dict().items()}

    def _load(self, x: Tensor) -> None:
        if x.data_ptr() != self._x.data_ptr():
            self._x.copy_(x)

    def _on_device(self, batch: Batch) -> Batch:
        inputs, targets = batch
        return inputs.to(self._device), targets.to(self._device)

    def _scored(self, batch: Batch) -> tuple[int, dict[str, float]]:
        inputs, targets = batch
        outputs = self._module(inputs)
        scores = {"loss": float(self._loss(outputs, targets))}
        if targets.dtype == torch.long and outputs.ndim == targets.ndim + 1:
            scores["accuracy"] = float((outputs.argmax(dim=1) == targets).double().mean())
        return len(inputs), scores


def _built(model: Callable[[], Module], seed: int) -> Module:
    """Build on the CPU with ``seed``, leaving the caller's random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return model()


def _flattened(tensors: Sequence[Tensor]) -> Tensor:
    """Copy the tensors into one flat tensor and make them views of it."""
    flat = parameters_to_vector(tensors).detach()
    vector_to_parameters(flat, tensors)
    return flat


def _endless(batches: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise ValueError("there is no training data")


def _metrics(scored: Iterable[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """Means over all samples of batches given as (samples, means over the batch)."""
    totals: dict[str, float] = {}
    count = 0
    for samples, scores in scored:
        count += samples
        for name, score in scores.items():
            totals[name] = totals.get(name, 0.0) + samples * score
    return {name: total / count for name, total in totals.items()}
