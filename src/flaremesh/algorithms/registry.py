"""The one list of algorithms: name in a topology file -> class."""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

from flaremesh.algorithms.protocol import Algorithm, Analysed, Exchange, Weights
from flaremesh.class_path import ClassPathError, class_at
from flaremesh.topology.schema import Run

_ALGORITHMS: dict[str, type[Algorithm[Any]]] = {}
A = TypeVar("A", bound="type[Analysed[Any]]")


def register(name: str) -> Callable[[A], A]:
    """Class decorator: make an algorithm available under ``name``.

    Raises:
        ValueError: the name is taken.
    """

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
    """The class registered under ``name``, or at the dotted path ``name`` of an installed package.

    Raises:
        KeyError: the name is unknown; the message lists the known ones.
        ImportError: the path's module does not exist.
        ClassPathError: the path leads to no algorithm.
    """
    if "." in name:
        cls: type[Algorithm[Any]] = class_at(name)
        if not (is_dataclass(cls) and isinstance(getattr(cls, "weights", None), Weights)):
            raise ClassPathError(f"{name} is no algorithm: a dataclass that says its weights and exchanges")
        exchanges = getattr(cls, "exchanges", ())
        told = isinstance(exchanges, tuple) and all(isinstance(exchange, Exchange) for exchange in exchanges)
        if not (exchanges and told):
            raise ClassPathError(f"{name} does not say its exchanges, such as exchanges = (Exchange(),)")
        return cls
    try:
        return _ALGORITHMS[name]
    except KeyError:
        raise KeyError(f"unknown algorithm {name!r}; known are {_list(names())}") from None


def create(name: str, **hyperparameters: Any) -> Algorithm[Any]:
    """Build an algorithm.

    Raises:
        KeyError, ImportError, ClassPathError: as `algorithm_class` does.
        TypeError: a hyper-parameter is unknown or missing.
        ValueError: a hyper-parameter is outside its range.
    """
    cls = algorithm_class(name)
    parameters = fields(cls)  # type: ignore[arg-type]  # every registered class is a dataclass
    known = [parameter.name for parameter in parameters]
    if unknown := set(hyperparameters).difference(known):
        raise TypeError(
            f"{name} has no parameter {_list(sorted(unknown))}; it takes {_list(known) or 'none'}"
        )
    required = [parameter.name for parameter in parameters if parameter.default is MISSING]
    if missing := [parameter for parameter in required if parameter not in hyperparameters]:
        raise TypeError(f"{name} needs a value for {_list(missing)}")
    return cls(**hyperparameters)


def configured(run: Run) -> Algorithm[Any]:
    """The algorithm of a run as its topology file configures it; raises what ``create`` raises."""
    if taken := sorted(run.options.keys() & Run.model_fields.keys()):
        raise TypeError(f"{_list(taken)} stands beside the options, not among them")
    beside = {"stepsize": run.stepsize, "local_steps": run.local_steps}
    given = {name: value for name, value in beside.items() if value is not None}
    return create(run.algorithm, **given, **run.options)


def unclippable(algorithm: Algorithm[Any], name: str) -> str | None:
    """Why no run of an algorithm may clip what neighbours send, and what to run instead; None if one may."""
    if _clippable(type(algorithm)):
        return None
    others = " or ".join(other for other, cls in sorted(_ALGORITHMS.items()) if _clippable(cls))
    return (
        f"clipping keeps no sum over all sites, and {name} needs one, or does not say that it needs none "
        f"(clippable); remove mixing.clip, or run {others}"
    )


def _clippable(cls: type[Algorithm[Any]]) -> bool:
    sums = cls.weights is Weights.COLUMN_STOCHASTIC or any(exchange.sums for exchange in cls.exchanges)
    return getattr(cls, "clippable", False) is True and not sums


def _list(words: Sequence[str]) -> str:
    return ", ".join(words)
