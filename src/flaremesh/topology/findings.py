"""What is wrong with a topology file, in words for the person who wrote it."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, TypeAlias

from flaremesh.errors import FlaremeshError

Location: TypeAlias = tuple[str | int, ...]
"""The way to a value: keys and list indices, outermost first."""


class Mistake(NamedTuple):
    """Something wrong at a place in the data."""

    location: Location
    problem: str
    remedy: str


@dataclass(frozen=True)
class Finding:
    """A mistake at its place in the file.

    Attributes:
        line: line of the topology file, from 1.
        field: the field, e.g. ``sites[1].name``; empty for the whole file.
        problem: what is wrong.
        remedy: what to write instead.
    """

    line: int
    field: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.field + ': ' if self.field else ''}{self.problem}; {self.remedy}"


class TopologyError(FlaremeshError):
    """A topology file cannot be used.

    Attributes:
        findings: all mistakes, in the order of the file.
    """

    exit_code = 2

    def __init__(self, path: Path, findings: Sequence[Finding]):
        self.findings = tuple(findings)
        count = "1 mistake" if len(findings) == 1 else f"{len(findings)} mistakes"
        super().__init__("\n".join([f"{path}: {count}", *(f"  {finding}" for finding in findings)]))


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
