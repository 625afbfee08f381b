"""The state of a relayed edge at its two ends: what is under way, and what has arrived of it."""

from collections import deque
from dataclasses import dataclass, field

from flaremesh.links.frame import Frame
from flaremesh.links.link import Payload

_FIRST_SECONDS = 0.25  # the peer may not be up yet, so the first frame is repeated faster


@dataclass
class Outgoing:
    """What this site sent to one peer.

    Attributes:
        sequence: number of the latest frame.
        waiting: frames for which the window has no place yet.
        unacknowledged: frames in the window, by number.
        messages, bytes: of both together.
        longest: of all messages so far, in bytes.
        progress: when the peer last acknowledged something, by ``time.monotonic``.
        patience: seconds without progress after which the window is sent again.
    """

    sequence: int = 0
    waiting: deque[Frame] = field(default_factory=deque)
    unacknowledged: dict[int, Frame] = field(default_factory=dict)
    messages: int = 0
    bytes: int = 0
    longest: int = 0
    progress: float = 0.0
    patience: float = _FIRST_SECONDS


@dataclass
class Unfinished:
    """A message of which pieces are missing.

    Attributes:
        data: the message, (length,) bytes.
        missing: how many of these have not come.
    """

    data: bytearray
    missing: int


@dataclass
class Incoming:
    """What this site got from one peer.

    Attributes:
        received: all frames up to this number have arrived.
        beyond: numbers above it that have arrived, too.
        told: the number that was acknowledged to the peer last.
        due: when to tell it more at the latest, by ``time.monotonic``; None where there is nothing to tell.
        partial: messages that lack pieces, by iteration and stage.
        oversized: it announced a message that is longer than those of the run.
    """

    received: int = 0
    beyond: set[int] = field(default_factory=set)
    told: int = 0
    due: float | None = None
    partial: dict[tuple[int, int], Unfinished] = field(default_factory=dict)
    oversized: bool = False

    def completed(self, frame: Frame) -> Payload | None:
        """The whole message if ``frame`` completes it."""
        if len(frame.payload) == frame.total:
            return frame.payload
        key = (frame.iteration, frame.stage)
        message = self.partial.get(key)
        if message is None or len(message.data) != frame.total:
            return None
        message.data[frame.offset : frame.offset + len(frame.payload)] = frame.payload
        message.missing -= len(frame.payload)
        if message.missing > 0:
            return None
        return memoryview(self.partial.pop(key).data)
