"""What a meeting point counts, for whoever watches it."""

from collections import Counter
from dataclasses import dataclass, field

from flaremesh.meeting.refusal import Reason


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

    knocking: int = 0
    waiting: int = 0
    joined: int = 0
    joinings: int = 0
    passed_bytes: int = 0
    refused: Counter[Reason] = field(default_factory=Counter)
