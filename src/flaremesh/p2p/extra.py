"""Values of a run's ``extra``, which users' code may write: each is checked where it is read."""

import math
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError

from flaremesh.errors import FlaremeshError
from flaremesh.links.life import Tolerance
from flaremesh.printable import refused
from flaremesh.topology.schema import CheckpointInterval, OnLoss, Privacy, Until, majority

PATIENCE_SECONDS = 600.0
"""For so long a run that goes on after a loss waits for who was lost, where it says nothing else."""


class ExtraError(FlaremeshError):
    """A value of ``extra`` is missing or not what it must be."""

    exit_code = 2


def whole(extra: Mapping[str, Any], name: str, least: int | None = 0, default: int | None = None) -> int:
    """The whole number ``name``, which may be written 10.0.

    Args:
        extra: the run's.
        name: of the value.
        least: its least value; None takes any.
        default: the value where there is none; None demands one.

    Raises:
        ExtraError: it is missing or anything else.
    """
    value = extra.get(name, default)
    number = _number(value)
    if number is None or number != int(number) or (least is not None and number < least):
        raise _refusal(name, "a whole number" + ("" if least is None else f" of at least {least}"), extra)
    return int(number)


def positive(extra: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """A number above zero; raises as `whole` does."""
    number = _number(extra.get(name, default))
    if number is None or number <= 0:
        raise _refusal(name, "a number above 0", extra)
    return float(number)


def flag(extra: Mapping[str, Any], name: str, default: bool) -> bool:
    """True or False; raises ExtraError for anything else."""
    value = extra.get(name, default)
    if not isinstance(value, bool):
        raise _refusal(name, "true or false", extra)
    return value


def checkpoint_interval_of(extra: Mapping[str, Any]) -> CheckpointInterval:
    """When a run takes checkpoints, in the words of a topology file.

    Where a run ends with its first loss, "checkpoint" is a word of its author's.

    Raises:
        ExtraError: it says anything else.
    """
    if extra.get("on_loss") not in ("wait", "continue"):
        return CheckpointInterval()
    try:
        return CheckpointInterval.model_validate(extra.get("checkpoint", {}))
    except ValidationError:
        raise _refusal(
            "checkpoint", '{"every": N} with a number of iterations, or a time such as "60s"', extra
        ) from None


def until_of(extra: Mapping[str, Any]) -> Until | None:
    """What ends a run before its last iteration, in the words of a topology file; None for nothing.

    Raises:
        ExtraError: it says anything else.
    """
    if extra.get("until") is None:
        return None
    try:
        return Until.model_validate(extra["until"])
    except ValidationError:
        raise _refusal(
            "until", 'metrics and their values, or {"plateau": {"metric": NAME, "iterations": N}}', extra
        ) from None


def privacy_of(extra: Mapping[str, Any]) -> Privacy:
    """What keeps a run's data from others, in the words of a topology file.

    Raises:
        ExtraError: it says anything else.
    """
    try:
        return Privacy.model_validate(extra.get("privacy", {}))
    except ValidationError:
        raise _refusal("privacy", 'such as {"epsilon": 8, "delta": 1e-5, "clip": 1.0}', extra) from None


def tolerance_of(extra: Mapping[str, Any]) -> Tolerance:
    """How long a run that goes on after a loss waits; raises as `whole` does."""
    patience = positive(extra, "patience", PATIENCE_SECONDS)
    if extra.get("straggler_timeout") is None:
        return Tolerance(patience)
    return Tolerance(patience, positive(extra, "straggler_timeout"))


def on_loss_of(extra: Mapping[str, Any]) -> OnLoss:
    """What becomes of a run that loses a site.

    Raises:
        ExtraError: it is no such word.
    """
    words: tuple[OnLoss, ...] = get_args(OnLoss)
    for word in words:
        if word == extra.get("on_loss", "fail"):
            return word
    raise _refusal("on_loss", f"one of {', '.join(words)}", extra)


def quorum_of(extra: Mapping[str, Any], sites: int) -> int | None:
    """How many of its sites a run needs to go on without the others; None where it needs all.

    Raises:
        ExtraError: it says something else, or more than there are.
    """
    if extra.get("on_loss") != "continue":
        return None
    quorum = whole(extra, "quorum", 2, max(2, majority(sites)))
    if quorum > sites:
        raise _refusal("quorum", f"at most {sites}, the number of sites", extra)
    return quorum


def planned_iterations(extra: Mapping[str, Any]) -> int:
    """Number of iterations to show; 0 where ``extra`` has none, since ported code may name it otherwise."""
    try:
        return whole(extra, "iterations")
    except ExtraError:
        return 0


def _number(value: Any) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


def _refusal(name: str, expected: str, extra: Mapping[str, Any]) -> ExtraError:
    found = f"not {refused(extra[name])}" if name in extra else "and it is missing"
    return ExtraError(f'extra["{name}"] must be {expected}, {found}')
