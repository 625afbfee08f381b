"""Random number generators: the global ones of torch, NumPy and Python, and those of a loader's own.

Their states are trees of tensors, arrays and JSON's types, so that they can be kept and set again.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import torch

State: TypeAlias = Any
"""The state of a generator."""

_PARTS: Final = ("dataset", "sampler", "batch_sampler")
"""Attributes of a loader, or of one of these, that may have generators of their own."""


def global_states() -> list[State]:
    """The states of all global generators of this process, those of GPUs if these are in use."""
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    gpus = torch.cuda.get_rng_state_all() if started else []
    return [random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state(), gpus]


def set_global_states(states: Sequence[State]) -> None:
    """Make these, which ``global_states`` gave, the states of the global generators."""
    python, numpy, cpu, gpus = states
    random.setstate(_python(python))
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if gpus:
        torch.cuda.set_rng_state_all(gpus)


def own_generators(owner: Any) -> list[Any]:
    """The generators among the attributes of a loader, its sampler and its dataset, always in one order."""
    return list({id(generator): generator for generator in _found(owner, set())}.values())


def states_of(generators: Sequence[Any]) -> list[State]:
    """The states of generators that ``own_generators`` found."""
    return [_state(generator) for generator in generators]


def set_states(generators: Sequence[Any], states: Sequence[State]) -> None:
    """Set each generator to its state.

    Raises:
        ValueError: there are more or fewer states than generators.
    """
    for generator, state in zip(generators, states, strict=True):
        match generator:
            case torch.Generator():
                generator.set_state(state)
            case np.random.Generator():
                generator.bit_generator.state = state
            case np.random.RandomState():
                generator.set_state(state)
            case _:
                generator.setstate(_python(state))


def _state(generator: Any) -> State:
    match generator:
        case torch.Generator():
            return generator.get_state()
        case np.random.Generator():
            return generator.bit_generator.state
        case np.random.RandomState():
            return generator.get_state(legacy=False)
    return generator.getstate()


def _found(owner: Any, seen: set[int]) -> Iterator[Any]:
    if id(owner) in seen:
        return
    seen.add(id(owner))
    attributes = getattr(owner, "__dict__", {})
    for value in attributes.values():
        if isinstance(value, torch.Generator | np.random.Generator | np.random.RandomState | random.Random):
            yield value
    for name in _PARTS:
        if name in attributes:
            yield from _found(attributes[name], seen)


def _python(state: Sequence[Any]) -> tuple[Any, ...]:
    """A state of Python's generator, which wants tuples where lists may have been kept."""
    version, numbers, gauss = state
    return version, tuple(numbers), gauss
