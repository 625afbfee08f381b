"""Dataclasses that travel as JSON in a job's configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from enum import Enum
from typing import Any, Final, Self, TypeVar

from flaremesh.errors import FlaremeshError
from flaremesh.printable import printable, refused
from flaremesh.topology.neighborhood import Neighborhood

EXTRA_TO_STOCK: Final = {"extra_to_stock": True}
"""Metadata of a field that the stock package's JSON does not have: it is written only where it is set."""


class NetworkError(FlaremeshError, ValueError):
    """A network or a configuration makes no sense, or no job can carry it."""

    exit_code = 2


class _Instance:
    """Keeps the attributes: below, a property replaces ``__dict__``, where Python would look for them."""


_attributes = vars(_Instance)["__dict__"].__get__


class JsonDataclass(_Instance):
    """A dataclass whose ``__dict__`` is its JSON.

    FedJob writes the objects among a component's arguments by their ``__dict__``, and NVFlare builds them
    again from it.
    """

    @classmethod
    def of(cls, value: Any) -> Self:
        """``value`` itself, or one made of a dict or of another package's dataclass of the same fields.

        Raises:
            NetworkError: it is anything else, or has an unknown or a missing field.
        """
        if isinstance(value, cls):
            return value
        known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]  # all subclasses are dataclasses
        if isinstance(value, Mapping):
            given = dict(value)
        elif is_dataclass(value) and not isinstance(value, type):
            given = {f.name: getattr(value, f.name) for f in fields(value)}
        else:
            raise NetworkError(
                f"{refused(value)} is no {cls.__name__}; give one, or a dict with {', '.join(known)}"
            )
        if unknown := given.keys() - known.keys():
            stranger = printable(min(map(repr, unknown)), 80)
            raise NetworkError(f"a {cls.__name__} has no field {stranger}, only {', '.join(known)}")
        for name, f in known.items():
            if name not in given and f.default is MISSING and f.default_factory is MISSING:
                raise NetworkError(f"a {cls.__name__} needs the field {name}, and {refused(value)} has none")
        return cls(**given)

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]  # Python allows it, and FedJob asks for it
        values = [(f, getattr(self, f.name)) for f in fields(self)]  # type: ignore[arg-type]  # as above
        return {
            f.name: plain(value)
            for f, value in values
            if "extra_to_stock" not in f.metadata or value != _default(f)
        }

    def __getstate__(self) -> dict[str, Any]:
        return dict(_attributes(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        _attributes(self).update(state)


def _default(f: Field[Any]) -> Any:
    return f.default if f.default_factory is MISSING else f.default_factory()


_AnyJson = TypeVar("_AnyJson", bound=JsonDataclass)


def listed(values: Any, what: str) -> list[Any]:
    """A list of ``values``, which ``what`` names in messages.

    Raises:
        NetworkError: they are none.
    """
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise NetworkError(f"{what} must be a list, not {refused(values)}")
    return list(values)


def each(kind: type[_AnyJson], values: Any, what: str) -> list[_AnyJson]:
    """A list of ``values``, each as a ``kind``; ``what`` names them in messages.

    Raises:
        NetworkError: they are no list, or one of them is no ``kind``.
    """
    return [kind.of(value) for value in listed(values, what)]


def plain(value: Any) -> Any:
    """``value`` in JSON's types; what JSON does not know stays as it is."""
    if isinstance(value, JsonDataclass):
        return value.__dict__
    if isinstance(value, Neighborhood):
        return asdict(value)
    if isinstance(value, Enum):
        return plain(value.value)
    if hasattr(value, "tolist"):  # numpy's and torch's numbers and arrays
        return value.tolist()
    if isinstance(value, Mapping):
        return {plain(key) if hasattr(key, "tolist") else key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def require_json(value: Any, place: str) -> None:
    """Check that JSON has the types of all that ``value`` holds; ``place`` says in messages where it is.

    Raises:
        NetworkError: it does not; the message names the place inside and the type.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str | int | float | None):
                raise NetworkError(
                    f"{place} has the key {printable(repr(key), 80)}, and a job's JSON knows only text there"
                )
            require_json(item, f"{place}[{printable(repr(key), 80)}]")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            require_json(item, f"{place}[{index}]")
    elif not isinstance(value, str | int | float | None):
        raise NetworkError(
            f"{place} is of the type {type(value).__name__}, which a job's JSON cannot carry; "
            "it knows numbers, texts, lists and dicts"
        )
