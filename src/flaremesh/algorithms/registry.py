"""The one list of algorithms: name in a topology file -> class."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from flaremesh.algorithms.protocol import Algorithm

_ALGORITHMS: dict[str, type[Algorithm[Any]]] = {}
A = TypeVar("A", bound=type[Any])


def register(name: str) -> Callable[[A], A]:
    """Class decorator: make an algorithm available under ``name``."""

    def add(cls: A) -> A:
        if name in _ALGORITHMS:
            raise ValueError(f"algorithm {name!r} is registered twice")
        _ALGORITHMS[name] = cls
        return cls

    return add


def names() -> list[str]:
    """All registered names, sorted."""
    return sorted(_ALGORITHMS)


def algorithm_class(name: str) -> type[Algorithm[Any]]:
    """The class registered under ``name``; KeyError names the known ones."""
    try:
        return _ALGORITHMS[name]
    except KeyError:
        raise KeyError(f"unknown algorithm {name!r}; known are {', '.join(names())}") from None


def create(name: str, **hyperparameters: Any) -> Algorithm[Any]:
    """Build an algorithm; raises KeyError for an unknown name, TypeError or ValueError for bad parameters."""
    cls = algorithm_class(name)
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]  # every registered class is a dataclass
    if unknown := set(hyperparameters) - known:
        raise TypeError(f"{name} has no parameter {', '.join(sorted(unknown))}; it takes {', '.join(sorted(known)) or 'none'}")
    return cls(**hyperparameters)
