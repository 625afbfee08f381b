"""Mistakes in a file, in words for the person who wrote it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from flaremesh.errors import FlaremeshError
from flaremesh.printable import printable

Location: TypeAlias = tuple[str | int, ...]
"""The keys and list indices that lead to a value, outermost first."""


class Mistake(NamedTuple):
    """Something wrong in the data: where, what is wrong, and what to write instead."""

    location: Location
    problem: str
    remedy: str


@dataclass(frozen=True)
class LineMistake:
    """A mistake at its place in the file.

    Attributes:
        line: line of the file, from 1.
        field: the field, e.g. ``sites[1].name``; empty for the whole file.
        problem: what is wrong.
        remedy: what to write instead.
    """

    line: int
    field: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        parts = (self.field, self.problem, self.remedy)
        field, problem, remedy = (printable(part, _MOST_CHARACTERS) for part in parts)
        return f"line {self.line}: {field}{': ' * bool(field)}{problem}; {remedy}"


class MistakenFile(FlaremeshError):
    """A file that a person wrote cannot be used.

    Args:
        path: the file.
        mistakes: all of its mistakes.

    Attributes:
        mistakes: the same, in the order of the file.
    """

    exit_code = 2

    def __init__(self, path: Path, mistakes: Sequence[LineMistake]):
        self.mistakes = tuple(mistakes)
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        lines = [f"{path}: {count}", *(f"  {mistake}" for mistake in mistakes[:_MOST_SHOWN])]
        if len(mistakes) > _MOST_SHOWN:
            lines.append(f"  … and {len(mistakes) - _MOST_SHOWN} more")
        super().__init__("\n".join(lines))


class TopologyError(MistakenFile):
    """A topology file cannot be used."""


_MOST_SHOWN = 50
_MOST_CHARACTERS = 400  # of each part of a mistake

_LONGEST = 80


def shown(value: Any) -> str:
    """A value as messages quote it."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    try:
        text = str(value) if isinstance(value, date) else repr(value)
    except ValueError:  # an integer with more digits than Python writes
        text = hex(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def near(word: str, known: Sequence[str]) -> str | None:
    """The known word that was most likely meant."""
    matches = get_close_matches(word, known, n=1)
    return matches[0] if matches else None


def instead(word: str, known: Sequence[str]) -> str:
    """The remedy for an unknown word."""
    if match := near(word, known):
        return f"did you mean {match}?"
    shown = ", ".join(known[:20])
    return f"write one of {shown}{', …' if len(known) > 20 else ''}"
