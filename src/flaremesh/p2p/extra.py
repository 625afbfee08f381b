"""A run's ``extra``, which may come from anybody's code: each value checked where it is used."""

import math
from collections.abc import Mapping
from typing import Any

from flaremesh.errors import FlaremeshError


class ExtraError(FlaremeshError):
    """A value of ``extra`` is missing or not what it must be."""

    exit_code = 2


def whole(extra: Mapping[str, Any], name: str, least: int = 0, default: int | None = None) -> int:
    """A whole number of at least ``least``, also where it is written 10.0.

    Raises ExtraError for anything else, and for none where there is no ``default``.
    """
    value = extra.get(name, default)
    number = _number(value)
    if number is None or not number.is_integer() or number < least:
        raise _refusal(name, f"a whole number of at least {least}", extra)
    return int(number)


def positive(extra: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """A number above zero; raises as `whole` does."""
    number = _number(extra.get(name, default))
    if number is None or number <= 0:
        raise _refusal(name, "a number above 0", extra)
    return number


def flag(extra: Mapping[str, Any], name: str, default: bool) -> bool:
    """True or False; raises ExtraError for anything else."""
    value = extra.get(name, default)
    if not isinstance(value, bool):
        raise _refusal(name, "true or false", extra)
    return value


def planned_iterations(extra: Mapping[str, Any]) -> int:
    """For those who only show it: 0 where the run does not say, because its code may count otherwise."""
    try:
        return whole(extra, "iterations")
    except ExtraError:
        return 0


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _refusal(name: str, expected: str, extra: Mapping[str, Any]) -> ExtraError:
    found = f"not {extra[name]!r}" if name in extra else "and it is missing"
    return ExtraError(f'extra["{name}"] must be {expected}, {found}')
