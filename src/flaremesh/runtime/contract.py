"""What users' problems return, held to what flaremesh.problems.protocol.Problem promises."""

import logging
import math
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flaremesh.class_path import ended
from flaremesh.metrics.sink import MOST_METRICS
from flaremesh.printable import refused
from flaremesh.problems.protocol import (
    ClipsExamples,
    LogEntry,
    Logs,
    Problem,
    ProblemError,
    Resumable,
    Trains,
)
from flaremesh.record import MOST_CHARACTERS, MOST_COUNT
from flaremesh.runtime.tree import copied

_log = logging.getLogger(__name__)


class CheckedProblem:
    """A problem whose every answer is checked, which costs an iteration about a microsecond.

    Args:
        problem: the user's.
        site: name of its site, for messages.

    Attributes:
        problem: the user's, unchecked.
        site: name of its site.
        logs: whether it logs metrics of its own.

    All methods raise ProblemError, with the name of the site, where the problem fails or breaks a promise.
    """

    def __init__(self, problem: Problem, site: str):
        self.problem = problem
        self.site = site
        self.logs = isinstance(problem, Logs)
        self._last_at = 0
        self._last: weakref.ref[Tensor] | None = None

    def initial(self) -> Tensor:
        """x⁰ (d,), a copy, because its memory is sent while the problem goes on working in its own."""
        with self._blamed():
            x = self.problem.initial()
        if not (_is_vector(x) and x.dtype.is_floating_point and x.numel()):
            raise self._broken(
                f"an initial point of {_kind(x)}; a float tensor (d,) is expected, d at least 1"
            )
        return x.detach().clone(memory_format=torch.contiguous_format)

    @property
    def trains(self) -> bool:
        """Whether the problem takes its local steps itself."""
        return isinstance(self.problem, Trains) and bool(self.problem.trains)

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Loss, a 0-d tensor, or None of a problem that trains itself, and gradient (d,), both detached."""
        version = x._version
        try:  # a context manager would cost as much as all these checks together
            answer = self.problem.loss_and_gradient(x.detach())
        except (Exception, SystemExit) as error:
            raise self._failed(error) from error
        return self._checked(answer, x, version, "gradient")

    @property
    def clips_examples(self) -> bool:
        """Whether the problem clips the gradient of each of its examples."""
        return isinstance(self.problem, ClipsExamples) and bool(self.problem.clips_examples)

    def clipped_gradient(self, x: Tensor, clip: float, least: int) -> Tensor:
        """Gradient (d,), detached, to which each example has contributed no more than it may."""
        assert isinstance(self.problem, ClipsExamples), "it is asked for them only if it has them"
        version = x._version
        with self._blamed():
            gradient = self.problem.clipped_gradient(x.detach(), clip, least)
        return self._checked((0.0, gradient), x, version, "gradient")[1]

    def train(
        self, x: Tensor, steps: int, stepsize: float, shift: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        """Loss, a 0-d tensor or None, and where the problem's own steps led, (d,), both detached."""
        assert isinstance(self.problem, Trains), "it is asked for steps only if it takes them"
        version = x._version
        with self._blamed():
            answer = self.problem.train(x.detach(), steps, stepsize, shift)
        return self._checked(answer, x, version, "trained vector")

    def evaluate(self, x: Tensor) -> dict[str, float]:
        """Metrics by name; those that are None are left out."""
        with self._blamed():
            metrics = self.problem.evaluate(x.detach())
        return self._metrics(metrics)

    def take_log(self) -> list[LogEntry]:
        """What it has logged since the last call."""
        assert isinstance(self.problem, Logs), "it is asked only if it logs"
        with self._blamed():
            log = [LogEntry(*entry) for entry in self.problem.take_log()]
        for step, _ in log:
            if step is not None and not (isinstance(step, int) and 0 <= step <= MOST_COUNT):
                raise self._broken(f"a step of its log that is {refused(step)}; a count is expected, or None")
        return [LogEntry(step, self._metrics(metrics)) for step, metrics in log]

    def _metrics(self, metrics: Any) -> dict[str, float]:
        if not isinstance(metrics, Mapping):
            raise self._broken(
                f"metrics that are {_kind(metrics)}; a mapping from names to numbers is expected"
            )
        if len(metrics) > MOST_METRICS or any(len(str(name)) > MOST_CHARACTERS for name in metrics):
            raise self._broken(
                f"{len(metrics)} metrics; "
                f"a server takes {MOST_METRICS}, with names of {MOST_CHARACTERS} letters"
            )
        return {
            str(name): self._number(str(name), value) for name, value in metrics.items() if value is not None
        }

    def buffers(self) -> Tensor | None:
        """The flat tensor (b,) of which the model's buffers are views, or None."""
        with self._blamed():
            buffers, again = self.problem.buffers(), self.problem.buffers()
        if buffers is None:
            return None
        if not (_is_vector(buffers) and buffers.dtype.is_floating_point and buffers.is_contiguous()):
            raise self._broken(
                f"buffers of {_kind(buffers)}; a contiguous float tensor (b,) is expected, or None"
            )
        if again is None or again.data_ptr() != buffers.data_ptr():
            raise self._broken(
                "its buffers in new memory at each call; what is mixed would be lost: return one tensor, "
                "of which the model's buffers are views"
            )
        return buffers.detach() if buffers.numel() else None

    def state(self, x: Tensor) -> dict[str, Tensor]:
        """What can be saved of the model at x; the log names the rest."""
        with self._blamed():
            state = self.problem.state(x.detach())
        if not isinstance(state, Mapping):
            raise self._broken(f"a state that is {_kind(state)}; a mapping from names to tensors is expected")
        saved = {str(name): value.detach() for name, value in state.items() if _can_be_saved(value)}
        if left := [f"{name} ({_kind(value)})" for name, value in state.items() if not _can_be_saved(value)]:
            _log.warning("%s: left out of the saved model, being no tensors: %s", self.site, ", ".join(left))
        return saved

    def snapshot(self) -> Mapping[str, Any] | None:
        """Copies of what says where the problem is; None where it does not tell."""
        if not isinstance(self.problem, Resumable):
            return None
        with self._blamed():
            snapshot = self.problem.snapshot()
        if not isinstance(snapshot, Mapping):
            raise self._broken(f"a snapshot that is {_kind(snapshot)}; a mapping is expected")
        position: Mapping[str, Any] = copied(snapshot)
        return position

    def restore(self, snapshot: Mapping[str, Any] | None) -> None:
        """Let the problem go to where the snapshot was taken."""
        if snapshot is None or not isinstance(self.problem, Resumable):
            return
        with self._blamed():
            self.problem.restore(snapshot)

    def _checked(self, answer: Any, x: Tensor, version: int, name: str) -> tuple[Tensor | None, Tensor]:
        """The loss and the vector that a problem has computed from x, which had that version then."""
        if x._version != version:
            raise self._broken("back an x that it has written to; work on x.clone()")
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise self._broken(
                f"{_kind(answer)}; loss and {name} are expected: return loss, {name.split()[-1]}"
            )
        loss, vector = answer
        if loss is None and self.trains:
            pass  # a script need not tell it
        elif not (isinstance(loss, Tensor) and not loss.ndim and loss.dtype.is_floating_point):
            loss = self._scalar(loss)
        if not (_is_vector(vector) and vector.shape == x.shape and vector.dtype == x.dtype):
            raise self._broken(f"a {name} of {_kind(vector)}; x is {_kind(x)}")
        if vector.device != x.device:
            raise self._broken(f"a {name} on {vector.device}; x is on {x.device}")
        if not vector.is_contiguous():
            raise self._broken(f"a {name} that is not contiguous; return {name.split()[-1]}.contiguous()")
        vector = vector.detach()  # a new object: the problem keeps no reference to it
        self._require_fresh(vector, name)
        return (loss.detach() if loss is not None and loss.requires_grad else loss), vector

    def _require_fresh(self, vector: Tensor, name: str) -> None:
        """Refuse memory that an algorithm still has from before: gradient tracking subtracts the last one."""
        last, place = self._last, vector.data_ptr()
        if place == self._last_at and last is not None and last() is not None:
            raise self._broken(
                f"each {name} in the memory of the one before; return {name.split()[-1]}.clone()"
            )
        self._last_at, self._last = place, weakref.ref(vector)

    def _scalar(self, loss: Any) -> Tensor:
        try:
            return torch.tensor(_float(loss), dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise self._broken(
                f"a loss of {_kind(loss)}; one number is expected, such as loss.mean()"
            ) from None

    def _number(self, name: str, value: Any) -> float:
        try:
            return _float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise self._broken(
                f"a metric {name} that is {_kind(value)}; a number is expected, or None"
            ) from None

    def _broken(self, what: str) -> ProblemError:
        return ProblemError(f"the problem of {self.site} gives {what}")

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception | SystemExit) -> ProblemError:
        what = f"the problem of {self.site} failed"
        return (
            ProblemError(f"{what}: {ended(error)}")
            if isinstance(error, SystemExit)
            else ProblemError(what, error)
        )


def fault_at_start(site: str, loss: Tensor | None, vector: Tensor, name: str) -> str | None:
    """What is wrong with a site's first loss and the vector of that name; None where both are finite.

    Where no loss would tell, every vector is looked at.
    """
    if loss is not None and not math.isfinite(loss):
        return f"the training loss of {site} is {float(loss)} at the start: look at its data"
    if bool(vector.isfinite().all()):
        return None
    if loss is None:
        return f"the {name} of {site} is not finite: take a smaller learning rate, or look at its data"
    return f"the {name} of {site} is not finite at the start, although its loss is: look at its data"


def _is_vector(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 1 and value.layout is torch.strided


def _can_be_saved(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized


def _float(value: Any) -> float:
    """The number itself, or the only one in an array; texts are refused, although float() reads some."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.item()
    if isinstance(value, str | bytes | bytearray):
        raise TypeError
    return float(value)


def _kind(value: Any) -> str:
    """A value in words: dtype and shape of arrays, else its type."""
    if isinstance(value, Tensor):
        sparse = "sparse " if value.layout is not torch.strided else ""
        return f"{sparse}{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"a NumPy array, {value.dtype} {value.shape}"
    return "None" if value is None else f"a {type(value).__name__}"
