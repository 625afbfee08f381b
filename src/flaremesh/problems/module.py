"""A torch module, a loss and batches as a problem over one flat vector."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.utils import clip_grad_norm_

from flaremesh.problems.batches import Batch, Batches, Passes, is_empty, pair_on, require_passes, samples
from flaremesh.problems.examples import ExampleGradients, gives_each_once
from flaremesh.problems.flat import FlatBuffers, FlatParameters, buffers_of, joined, set_buffers
from flaremesh.problems.generators import own_generators, set_states, states_of
from flaremesh.problems.optimiser import LocalOptimizer, MakeOptimizer, MakeSchedule
from flaremesh.problems.protocol import SiteContext

__all__ = ["Batch", "Batches", "ModuleProblem"]


class ModuleProblem:
    """Trains a torch module: x is the concatenation of its trainable parameters.

    Frozen parameters stay as they are; unused ones have a zero gradient. The module trains in the mode in
    which it was built: parts that were put in eval mode stay in it, but a module that is in eval mode as a
    whole, as pretrained ones are, is put in train mode.

    Args:
        site: the site to which the problem belongs.
        model: builds the module with the run's seed, so that all sites start from the same point; a module is
            taken as it is.
        loss: (outputs, targets) -> mean loss over the batch, a 0-d tensor.
        train: batches of (inputs, targets), iterated over again and again: a DataLoader or Batches.
        test: batches for evaluation; without any there are no metrics.
        device: where to compute; default a GPU if there is one.
        optimizer: takes the local steps of algorithms that have them: a class of torch.optim, or a partial of
            one, called with the trainable parameters and ``lr``, the run's stepsize. None is plain descent.
        schedule: makes the optimizer's learning rate schedule, which goes on by one with every step.
        clip_norm: gradients that are longer are scaled down to this 2-norm.
        accumulate: batches whose mean loss a gradient is that of.
        autocast: what the module computes in, such as torch.bfloat16; the parameters keep their dtypes.

    Raises:
        ValueError: nothing to train, no training data, a loss that is to be trained itself, or an argument
            outside its range.
        TypeError: what is given is no module, no function, or nothing that gives batches again and again.
    """

    def __init__(
        self,
        site: SiteContext,
        model: Module | Callable[[], Module],
        loss: Callable[[Any, Any], Tensor],
        train: Iterable[Batch],
        test: Iterable[Batch] = (),
        device: str | None = None,
        *,
        optimizer: MakeOptimizer | None = None,
        schedule: MakeSchedule | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
        autocast: torch.dtype | None = None,
    ):
        if schedule is not None and optimizer is None:
            raise ValueError("a schedule needs an optimizer, whose learning rate it changes")
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm must be positive, not {clip_norm}")
        if type(accumulate) is not int or accumulate < 1:
            raise ValueError(f"accumulate must be a whole number from 1 on, not {accumulate}")
        if autocast not in (None, torch.bfloat16):
            raise ValueError(f"autocast is torch.bfloat16, not {autocast}: float16 would need a scaled loss")
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        module = _own(model) if isinstance(model, Module) else _built(model, site.seed)
        module.to(self._device)
        if not module.training:
            module.train()
        if not callable(loss):
            raise TypeError("the loss is no function of outputs and targets")
        if isinstance(loss, Module):
            if any(parameter.requires_grad for parameter in loss.parameters()):
                raise ValueError(
                    "the loss has trainable parameters, and only the model's are trained: put it there"
                )
            loss.to(self._device)
        require_passes(train, "train")
        require_passes(test, "test")
        if is_empty(train):
            raise ValueError("there is no training data")
        self._module = module
        self._loss = loss
        self._batches = Passes(train)
        self._test = test
        self._test_generators = own_generators(test)
        self._clip_norm, self._accumulate, self._autocast = clip_norm, accumulate, autocast
        self._parameters = FlatParameters(module)
        self._optimizer: LocalOptimizer | None = None
        if optimizer is not None:
            self._optimizer = LocalOptimizer(self._parameters.parameters, optimizer, schedule)
        self._flat_buffers: FlatBuffers | None = None
        self._each_once = gives_each_once(train)
        self._examples: ExampleGradients | None = None

    def labels(self) -> Tensor | None:
        """Classes of the training samples of one pass, (m,); None where the targets are no classes."""
        found: list[Tensor] = []
        for _, targets in self._batches.whole():
            targets = torch.as_tensor(targets)
            if targets.ndim != 1 or targets.is_floating_point() or targets.is_complex():
                return None
            found.append(targets.cpu())
        return torch.cat(found)

    def initial(self) -> Tensor:
        """The module's parameters as they are now, (d,)."""
        return self._parameters.vector.clone()

    def start_at(self, x: Tensor) -> None:
        """Make x (d,) the initial point."""
        self._load(x)

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and gradient (d,) on the next mini-batches, in train mode.

        Raises:
            ValueError: there is an optimizer, which would not be used.
        """
        if self._optimizer is not None:
            raise ValueError(
                "it has an optimizer of its own, which takes the local steps of algorithms that have them: "
                "choose one, such as k-gt, or leave the optimizer out"
            )
        self._load(x)
        loss = self._loss_and_backward(self._next_batches())
        gradient = self._parameters.take_gradient()
        self._gather_buffers()
        return loss, gradient

    @property
    def clips_examples(self) -> bool:
        """Whether each gradient is that of one batch, in which no example comes twice."""
        return self._each_once and self._accumulate == 1 and self._clip_norm is None

    def clipped_gradient(self, x: Tensor, clip: float, least: int) -> Tensor:
        """See flaremesh.problems.protocol.ClipsExamples; Opacus computes the gradients of the examples.

        Raises:
            ImportError: Opacus is not installed.
            ValueError: the module has parts that mix examples, such as BatchNorm.
        """
        if self._examples is None:
            self._examples = ExampleGradients(self._module, self._parameters.parameters)
        self._load(x)
        batch = pair_on(self._device, self._batches.next())
        with self._computing():
            loss = _scalar(self._loss(self._module(batch[0]), batch[1]))
        self._examples.backward(loss)
        total = joined(self._examples.clipped_sum(clip)).to(x.dtype)
        return total.div_(max(samples(batch), least))

    @property
    def trains(self) -> bool:
        """Whether there is an optimizer, which takes the local steps."""
        return self._optimizer is not None

    def train(self, x: Tensor, steps: int, stepsize: float, shift: Tensor | None) -> tuple[Tensor, Tensor]:
        """The optimizer's steps from x; see flaremesh.problems.protocol.Trains."""
        assert self._optimizer is not None, "without one, it is asked for gradients"
        self._load(x)
        for _ in range(steps):
            step = partial(self._loss_and_backward, self._next_batches())
            loss, left = self._optimizer.step(stepsize, step)
            if shift is not None:
                self._parameters.subtract(shift * left)
        self._parameters.clear_gradients()
        self._gather_buffers()
        return loss, self._parameters.gather()

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> Mapping[str, float]:
        """Mean ``loss`` on the test batches and ``accuracy`` where targets are class labels; in eval mode.

        Outputs (m, C, ...) or (m, ..., C) with integer targets (m, ...) are classes; where both would fit
        there is no accuracy, because it would be a guess. Labels outside 0, ..., C − 1 and the loss's
        ``ignore_index`` do not count.
        """
        self._load(x)
        loss, count, correct, counted = 0.0, 0, 0, 0
        with self._evaluating():
            for batch in self._test:
                inputs, targets = pair_on(self._device, batch)
                if not (size := samples((inputs, targets))):
                    continue
                outputs = self._module(inputs)
                loss += size * float(_scalar(self._loss(outputs, targets)))
                count += size
                right, of = _accuracy(outputs, targets, getattr(self._loss, "ignore_index", None))
                correct += right
                counted += of
        metrics = {"loss": loss / count} if count else {}
        return metrics | ({"accuracy": correct / counted} if counted else {})

    def buffers(self) -> Tensor | None:
        """The persistent floating-point buffers (BatchNorm's statistics) as one flat view, or None."""
        if self._flat_buffers is None:
            self._flat_buffers = FlatBuffers(self._module)
        return self._flat_buffers.vector

    def state(self, x: Tensor) -> Mapping[str, Any]:
        """The module's state_dict at x."""
        self._load(x)
        state: Mapping[str, Any] = self._module.state_dict()
        return state

    def snapshot(self) -> dict[str, Any]:
        """The position in the training data, the states of loaders' own generators, and the module's buffers.

        The position in a DataLoader is exact whether it draws its order from a generator of its own or from
        torch's, as long as it draws it when a pass begins.
        """
        return {
            "train": self._batches.snapshot(),
            "test": states_of(self._test_generators),
            "buffers": buffers_of(self._module),
            "optimizer": None if self._optimizer is None else self._optimizer.snapshot(),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go to where ``snapshot`` was taken; the batches of the present pass up to there are drawn again."""
        self._batches.restore(snapshot["train"])
        set_states(self._test_generators, snapshot["test"])
        set_buffers(self._module, snapshot["buffers"])
        if self._optimizer is not None:
            self._optimizer.restore(snapshot["optimizer"])

    def _next_batches(self) -> list[Batch]:
        return [pair_on(self._device, self._batches.next()) for _ in range(self._accumulate)]

    def _loss_and_backward(self, batches: Sequence[Batch]) -> Tensor:
        """The mean loss over the batches, detached; its gradient is left at the parameters."""
        self._parameters.clear_gradients()
        losses = []
        for inputs, targets in batches:
            with self._computing():
                loss = _scalar(self._loss(self._module(inputs), targets))
            if len(batches) > 1:
                loss = loss / len(batches)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            losses.append(loss.detach())
        if self._clip_norm is not None:
            clip_grad_norm_(self._parameters.parameters, self._clip_norm)
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _computing(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, self._autocast) if self._autocast else nullcontext()

    def _gather_buffers(self) -> None:
        if self._flat_buffers:
            self._flat_buffers.gather()

    def _load(self, x: Tensor) -> None:
        self._parameters.load(x)
        if self._flat_buffers:
            self._flat_buffers.scatter()

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        modes = [(part, part.training) for part in self._module.modules()]
        self._module.eval()
        try:
            yield
        finally:
            for part, mode in modes:
                part.training = mode


_taken: WeakSet[Module] = WeakSet()
"""Modules that a problem of this process trains."""


def _own(module: Module) -> Module:
    """The module, or a copy if another problem trains it: in the simulator sites may get the same one."""
    if module in _taken:
        module = copy.deepcopy(module)
    _taken.add(module)
    return module


def _built(model: Callable[[], Module], seed: int) -> Module:
    """Build on the CPU with ``seed``, leaving the caller's random state alone."""
    if not callable(model):
        raise TypeError(
            f"the model is a {type(model).__name__}, neither a module nor a function that builds one"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed % 2**64)
        module = model()
    if not isinstance(module, Module):
        raise TypeError(f"the model's builder returns a {type(module).__name__}, no torch.nn.Module")
    return module


def _scalar(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"the loss is {shape}; one number is expected, a 0-d tensor such as loss.mean()")
    return loss.reshape(())


def _accuracy(outputs: Any, targets: Any, ignored: int | None) -> tuple[int, int]:
    """How many labels are right, of how many; 0 of 0 where the targets are no class labels."""
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
        return 0, 0
    whole = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
    if not (whole and outputs.is_floating_point() and outputs.ndim == targets.ndim + 1 >= 2):
        return 0, 0
    fitting = {
        dim
        for dim in (1, outputs.ndim - 1)
        if outputs.shape[:dim] + outputs.shape[dim + 1 :] == targets.shape and outputs.shape[dim] > 1
    }
    if len(fitting) != 1:
        return 0, 0
    (dim,) = fitting
    counts = (targets >= 0) & (targets < outputs.shape[dim])
    if ignored is not None:
        counts &= targets != ignored
    right = (outputs.argmax(dim=dim) == targets) & counts
    return int(right.sum()), int(counts.sum())
