"""The unit on the wire: a fixed header, then a piece of a message.

Direct connections and the relay carry the same frames.
"""

import struct
from collections.abc import Callable
from enum import IntEnum
from hashlib import blake2s
from typing import NamedTuple

from flaremesh.links.link import Payload, Refusal

VERSION = 2
_LAYOUT = struct.Struct("<4sBB8sQQqIQQ")
HEADER_BYTES = _LAYOUT.size
_MAGIC = b"FMSH"
_KIND = 5  # the kind's place
_TOTAL = struct.Struct("<Q")  # the header's last


class Kind(IntEnum):
    """What a frame is for."""

    DATA = 0  # a piece of a message
    ACK = 1  # what has arrived of the opposite direction
    REPEAT = 2  # DATA that may have arrived by another carrier before
    HELLO = (
        3  # the first frame of a connection, answered by an ACK; on the relay a greeting, see authentication
    )
    REFUSED = 4  # the answer to a site that may not connect; the payload says why, and nothing follows
    END = 5  # the edge ends: its sender has sent all (answered by an ACK), or its receiver wants no more
    ALIVE = 6  # the sender's run goes on, see flaremesh.links.life; ``sequence`` numbers these on the relay


_KINDS = tuple(Kind)  # by number; Kind(number) would take half a microsecond of every frame


class FrameError(Exception):
    """Bytes that are no frame of this run; ``reason`` says why."""

    def __init__(self, reason: Refusal):
        self.reason = reason
        super().__init__(reason)


class Frame(NamedTuple):
    """One frame.

    Attributes:
        kind: what it is for; ACK, HELLO, END and ALIVE have no payload; ACK and END use only
            ``acknowledged``.
        sequence: number of this frame on its directed edge, from 1.
        acknowledged: all frames up to this number of the opposite edge have arrived.
        iteration: iteration of the message; negative numbers are the link's own.
        stage: exchange within the iteration.
        offset: where the payload lies in the message, in bytes.
        total: length of the message, in bytes.
        payload: the piece.
    """

    kind: Kind
    sequence: int
    acknowledged: int
    iteration: int
    stage: int
    offset: int
    total: int
    payload: Payload


def run_digest(run_id: str) -> bytes:
    """Eight bytes that tell the frames of one run from those of another."""
    return blake2s(run_id.encode(), digest_size=8).digest()


def pack(frame: Frame, run: bytes, tag: Callable[[Payload, Payload], bytes] | None = None) -> bytes:
    """The bytes of a frame.

    Args:
        frame: the frame.
        run: digest of the run.
        tag: makes what follows the frame out of its header and payload; None for nothing.
    """
    header = _LAYOUT.pack(
        _MAGIC,
        VERSION,
        frame.kind,
        run,
        frame.sequence,
        frame.acknowledged,
        frame.iteration,
        frame.stage,
        frame.offset,
        frame.total,
    )
    return b"".join((header, frame.payload, tag(header, frame.payload) if tag else b""))


def announced(data: memoryview, start: int = 0) -> int:
    """Length of the message that the header at ``start`` belongs to, in bytes, before anything is checked."""
    (total,) = _TOTAL.unpack_from(data, start + HEADER_BYTES - _TOTAL.size)
    return int(total)


def is_greeting(data: Payload) -> bool:
    """Whether bytes look like a HELLO, before anything is checked."""
    return data[_KIND : _KIND + 1] == bytes([Kind.HELLO])


def unpack(data: Payload | bytearray, run: bytes) -> Frame:
    """Parse and check one frame; raises FrameError for anything that is not a whole frame of this run."""
    view = memoryview(data)
    if len(view) < HEADER_BYTES:
        raise FrameError(Refusal.MALFORMED)
    magic, version, kind, digest, sequence, acknowledged, iteration, stage, offset, total = (
        _LAYOUT.unpack_from(view)
    )
    if magic != _MAGIC or kind >= len(_KINDS):
        raise FrameError(Refusal.MALFORMED)
    if version != VERSION:
        raise FrameError(Refusal.VERSION)
    if digest != run:
        raise FrameError(Refusal.RUN)
    payload = view[HEADER_BYTES:]
    if offset + len(payload) > total or (kind in (Kind.DATA, Kind.REPEAT) and sequence == 0):
        raise FrameError(Refusal.MALFORMED)
    return Frame(_KINDS[kind], sequence, acknowledged, iteration, stage, offset, total, payload)
