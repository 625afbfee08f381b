"""Mini-batches, as users' loaders give them and as a module and its loss take them."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Generator, Tensor

from flaremesh.problems.generators import (
    global_states,
    own_generators,
    set_global_states,
    set_states,
    states_of,
)

Batch: TypeAlias = tuple[Any, Any]
"""Inputs and targets: tensors or arrays whose first dimension is the batch, or collections of them."""


class Batches:
    """Mini-batches of tensors in memory, in a new order at each pass; without samples there are none.

    Args:
        inputs: (m, ...).
        targets: (m, ...).
        size: samples in a batch; None is one batch of all samples.
        generator: draws the order; None keeps it.

    Raises:
        ValueError: there are not as many inputs as targets, or the size is below 1.
    """

    def __init__(
        self, inputs: Tensor, targets: Tensor, size: int | None = None, generator: Generator | None = None
    ):
        if size is not None and size < 1:
            raise ValueError(f"the batch size must be at least 1, not {size}")
        if len(inputs) != len(targets):
            raise ValueError(f"{len(inputs)} inputs and {len(targets)} targets do not belong together")
        self._inputs = torch.as_tensor(inputs)
        self._targets = torch.as_tensor(targets)
        self._size = size
        self._generator = generator

    def __len__(self) -> int:
        """How many batches a pass has."""
        samples = len(self._inputs)
        return -(-samples // (self._size or max(samples, 1)))

    def __iter__(self) -> Iterator[Batch]:
        if not len(self):
            return
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


def is_empty(batches: Iterable[Any]) -> bool:
    """Whether there are no batches; False for a stream, which does not say how many it has."""
    try:
        return not len(batches)  # type: ignore[arg-type]  # what has no length raises TypeError
    except TypeError:
        return False


def require_passes(batches: Iterable[Any], what: str) -> None:
    """Refuse what can be gone through only once: an iterator, such as a generator.

    Args:
        batches: of training or test data.
        what: it is called in messages.

    Raises:
        TypeError: it is no iterable, or it is an iterator.
    """
    if not isinstance(batches, Iterable) and not hasattr(batches, "__getitem__"):
        raise TypeError(f"{what} is no iterable of batches: give a DataLoader, Batches or a list")
    if isinstance(batches, Iterator):
        raise TypeError(
            f"{what} can be gone through only once, being an iterator: give a DataLoader, Batches or a list"
        )


class Passes:
    """The batches of one pass after another, and the position in them.

    A position is the states of the generators when the pass began, and how many batches were drawn of it. To
    go there, the pass is begun anew with these states, and so many of its batches are left out.

    Args:
        batches: whose passes they are.
    """

    def __init__(self, batches: Iterable[Any]):
        self._batches = batches
        self._pass: Iterator[Any] | None = None
        self._drawn = 0
        self._began: Any = None
        self._generators = own_generators(batches)
        # these draw from no others, and may have so short passes that asking would take time
        self._draws_globally = type(batches) not in (Batches, list, tuple)

    def whole(self) -> Iterable[Any]:
        """The batches of a further pass, for which generators go on; none of a stream without an end."""
        return self._batches if isinstance(self._batches, Sized) else ()

    def next(self) -> Any:
        """The next batch.

        Raises:
            ValueError: a pass has no batch.
        """
        if self._pass is not None:
            for batch in self._pass:
                self._drawn += 1
                return batch
            self._pass = None
        self._began = self._states()
        self._pass = iter(self._batches)
        for batch in self._pass:
            self._drawn = 1
            return batch
        raise ValueError("there is no training data")

    def snapshot(self) -> dict[str, Any]:
        """The position."""
        return {"drawn": self._drawn, "began": self._began, "now": self._states()}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go to a position of passes over the same data.

        Raises:
            ValueError: there are fewer batches, or other generators.
        """
        if snapshot["drawn"]:
            self._set(snapshot["began"])
            self._pass = iter(self._batches)
            self._drawn = sum(1 for _ in islice(self._pass, snapshot["drawn"]))
            if self._drawn < snapshot["drawn"]:
                raise ValueError(f"there are {self._drawn} batches, and {snapshot['drawn']} had been drawn")
            self._began = snapshot["began"]
        self._set(snapshot["now"])

    def _states(self) -> dict[str, Any]:
        return {
            "own": states_of(self._generators),
            "global": global_states() if self._draws_globally else None,
        }

    def _set(self, states: Mapping[str, Any]) -> None:
        set_states(self._generators, states["own"])
        if self._draws_globally:
            set_global_states(states["global"])


def pair_on(device: torch.device, batch: Any) -> Batch:
    """Inputs and targets of a batch on the device, arrays as tensors.

    Raises:
        ValueError: the batch is no pair.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(
            f"a batch must be (inputs, targets), two tensors, and this one is {_shape(batch)}; "
            "wrap the loader in one that gives pairs"
        )
    inputs, targets = batch
    return _moved(inputs, device), _moved(targets, device)


def samples(batch: Batch) -> int:
    """How many samples a batch has: the first dimension of its first tensor; 1 where it has none."""
    tensors = (value for part in batch for value in _tensors(part) if value.ndim)
    first = next(tensors, None)
    return 1 if first is None else len(first)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = torch.as_tensor(value)
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: _moved(part, device) for name, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_moved(part, device) for part in value))
    if isinstance(value, tuple | list):
        return type(value)(_moved(part, device) for part in value)
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def _shape(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a {type(batch).__name__} with the keys {', '.join(map(str, batch))}"
    if isinstance(batch, tuple | list):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a {type(batch).__name__}"
