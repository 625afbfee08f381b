"""What a meeting point counts, for whoever watches it."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Final

from flaremesh.meeting.refusal import Reason
from flaremesh.record import Schema, Whole

LINE_BYTES: Final = 4096
"""A line of figures is shorter."""


@dataclass
class Figures:
    """Numbers since the start; each is written by one thread, and may be read by any.

    Attributes:
        knocking: connections now that have not proved yet whose they are.
        waiting: connections now whose other end has not come.
        joined: pairs of connections now between which bytes are passed on.
        joinings: how many there have been.
        passed_bytes: bytes that were passed on, both ways.
        refused: connections that were hung up on, by reason.
    """

    knocking: Whole = 0
    waiting: Whole = 0
    joined: Whole = 0
    joinings: Whole = 0
    passed_bytes: Whole = 0
    refused: Counter[Reason] = field(default_factory=Counter)

    def line(self) -> str:
        """These as a line of JSON, which ``read`` reads."""
        # a copy, made in one step: others count meanwhile
        return _RECORD.json(replace(self, refused=Counter(dict(self.refused))))


_RECORD: Final = Schema[Figures](Figures, "a meeting point's figures")


def read(line: bytes) -> Figures:
    """The figures of a line; raises RecordError where it has none."""
    return _RECORD.read(line, "what a meeting point says", LINE_BYTES)
