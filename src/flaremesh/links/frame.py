"""What is on the wire of a pair: a greeting from either end, then headers, some with a message behind."""

import struct
from enum import IntEnum
from hashlib import blake2s
from typing import NamedTuple

from flaremesh.links.link import Payload, Refusal

VERSION = 3
_MAGIC = b"FMSH"
_GREETING = struct.Struct("<4sBB2x8sQQ16s")
_HEADER = struct.Struct("<HHIQQQqQ")
GREETING_BYTES = _GREETING.size
HEADER_BYTES = _HEADER.size
_LENGTH = struct.Struct("<Q")  # the header's last


class Word(IntEnum):
    """What a greeting says."""

    HELLO = 0  # of the end that follows
    ADOPT = 1  # of the end that leads: this connection counts from now on
    REFUSED = 2  # of either end: nothing follows


class Kind(IntEnum):
    """What a frame is for; each kind tells how much of the other direction has arrived, and was taken."""

    DATA = 0  # a message follows
    ACK = 1  # nothing else
    ALIVE = 2  # the sender's run goes on, see flaremesh.links.life
    FLUSH = 3  # all was sent: acknowledge it at once
    END = 4  # the sender sends no more, and wants no more


_WORDS = tuple(Word)
_KINDS = tuple(Kind)  # by number; Kind(number) would take half a microsecond of every frame


class FrameError(Exception):
    """Bytes that are no greeting or frame of this run; ``reason`` says why."""

    def __init__(self, reason: Refusal):
        self.reason = reason
        super().__init__(reason)


class Greeting(NamedTuple):
    """The first bytes of either end.

    Attributes:
        word: what it says.
        received: how many of the other end's messages have arrived, over all connections so far.
        number: of this connection among those that counted; 0 unless that is said by the end that leads.
        reason: why the connection is refused; empty unless it is.
    """

    word: Word
    received: int = 0
    number: int = 0
    reason: str = ""


class Frame(NamedTuple):
    """One header.

    Attributes:
        kind: what it is for.
        sequence: number of this message among those to this receiver, from 1; 0 without a message.
        acknowledged: so many messages of the opposite direction have arrived.
        taken: so many of them the receiver's run has taken.
        iteration: iteration of the message; negative numbers are before the first.
        stage: exchange within the iteration.
        length: of the message, in bytes.
        part: of what is sent in this exchange.
    """

    kind: Kind
    sequence: int
    acknowledged: int
    taken: int
    iteration: int = 0
    stage: int = 0
    length: int = 0
    part: int = 0


def run_digest(run_id: str) -> bytes:
    """Eight bytes that tell the connections of one run from those of another."""
    return blake2s(run_id.encode(), digest_size=8).digest()


def pack_greeting(greeting: Greeting, run: bytes) -> bytes:
    """The bytes of a greeting; ``run`` is the run's digest."""
    word, received, number, reason = greeting
    return _GREETING.pack(_MAGIC, VERSION, word, run, received, number, reason.encode())


def unpack_greeting(data: Payload | bytearray, run: bytes) -> Greeting:
    """Parse and check ``GREETING_BYTES`` bytes; raises FrameError where they are no greeting of this run."""
    magic, version, word, digest, received, number, reason = _GREETING.unpack(data)
    if magic != _MAGIC or word >= len(_WORDS):
        raise FrameError(Refusal.MALFORMED)
    if version != VERSION:
        raise FrameError(Refusal.VERSION)
    if _WORDS[word] is not Word.REFUSED and digest != run:
        raise FrameError(Refusal.RUN)
    text = ascii(bytes(reason).rstrip(b"\0").decode(errors="replace"))[1:-1]
    return Greeting(_WORDS[word], received, number, text)


def pack(frame: Frame) -> bytes:
    """The bytes of a header."""
    kind, sequence, acknowledged, taken, iteration, stage, length, part = frame
    return _HEADER.pack(kind, part, stage, sequence, acknowledged, taken, iteration, length)


def announced(data: memoryview, start: int = 0) -> int:
    """Length of the message after the header at ``start``, in bytes, before anything is checked."""
    (length,) = _LENGTH.unpack_from(data, start + HEADER_BYTES - _LENGTH.size)
    return int(length)


def unpack(data: Payload | bytearray) -> Frame:
    """Parse and check a header; raises FrameError where it is none."""
    kind, part, stage, sequence, acknowledged, taken, iteration, length = _HEADER.unpack(data)
    if kind >= len(_KINDS) or bool(sequence) != (kind == Kind.DATA) or (length and kind):
        raise FrameError(Refusal.MALFORMED)
    return Frame(_KINDS[kind], sequence, acknowledged, taken, iteration, stage, length, part)
