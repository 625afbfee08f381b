"""How fast a connection is, found out by its two ends as a run uses it.

First small frames go to and fro. Then both ends send long messages at the same time, as neighbours do, and
each tells the other how fast they came. What comes while TCP looks for its speed does not count.
"""

import socket
import time
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Final, TypeAlias

from pydantic import Field

from flaremesh.links.channel import LARGE_BYTES, Channel
from flaremesh.links.frame import Frame, FrameError, Kind, pack
from flaremesh.record import Seconds
from flaremesh.topology.links import LinkKind

STREAM_SECONDS: Final = 3.0
"""For so long both ends send at full speed, unless they have sent enough before."""

MOST_SECONDS: Final = 15.0
"""After so long it has failed: what is under way on a slow line must arrive, too."""

_MOST_PIECES = 4096
_PIECE_BYTES = 2 * LARGE_BYTES  # read as the messages of a run are
_TRIPS, _FEW_TRIPS, _TRIP_SECONDS = 20, 3, 2.0
_WARM_SHARE = 0.3  # of the time and of the pieces, in which TCP finds its speed
_READS = 8  # between two looks at what may be written


Rate: TypeAlias = Annotated[float, Field(gt=0, le=1e15)]
"""Bytes per second of a record."""


@dataclass(frozen=True)
class Speed:
    """What was found; a record.

    Attributes:
        round_trip: seconds that a frame without a message takes to the other end and back, the median.
        sent: bytes per second that the other end got while both sent.
        received: bytes per second that this end got then.
    """

    round_trip: Seconds
    sent: Rate
    received: Rate


def measure(connection: socket.socket) -> Speed:
    """How fast a connection is whose other end calls `answer`; it is closed.

    Args:
        connection: TLS, after the greetings.

    Raises:
        OSError: it breaks, takes too long, or the other end says what cannot be.
    """
    with _Talk(connection) as talk:
        trips: list[float] = []
        begun = time.monotonic()
        while len(trips) < _FEW_TRIPS or (len(trips) < _TRIPS and time.monotonic() < begun + _TRIP_SECONDS):
            trips.append(talk.trip())
        talk.say(Frame(Kind.FLUSH, 0, 0, 0))
        return Speed(median(trips), *talk.exchange())


def answer(connection: socket.socket) -> None:
    """Let the other end `measure` a connection, which is closed.

    Raises:
        OSError: it breaks, takes too long, or the other end says what cannot be.
    """
    with _Talk(connection) as talk:
        while (frame := talk.hear()).kind is Kind.ALIVE:
            talk.say(frame)
        if frame.kind is not Kind.FLUSH:
            raise _nonsense()
        talk.exchange()


def _nonsense() -> OSError:
    return ConnectionError("the other end does not measure: do both run one version of flaremesh?")


class _Talk:
    """One end, used by one thread."""

    def __init__(self, connection: socket.socket):
        self._channel = Channel(connection, LinkKind.DIRECT)
        self._deadline = time.monotonic() + MOST_SECONDS
        self._wake, self._woken = socket.socketpair()  # nobody wakes it

    def __enter__(self) -> "_Talk":
        return self

    def __exit__(self, *error: object) -> None:
        self._channel.close()
        self._wake.close()
        self._woken.close()

    def say(self, frame: Frame) -> None:
        """Write a frame without a message, after all that is unwritten."""
        self._channel.put(pack(frame))
        while self._channel.is_full:
            if not self._channel.write():
                self._wait(reading=False)

    def hear(self) -> Frame:
        """The next frame, which has no message."""
        while (frame := self._header()) is None:
            if not self._channel.fill():
                self._wait()
        self._left()  # who never waits must come to an end, too
        if frame.length:
            raise _nonsense()
        return frame

    def trip(self) -> float:
        """Seconds until the other end's answer is there."""
        begun = time.perf_counter()
        self.say(Frame(Kind.ALIVE, 0, 0, 0))
        if self.hear().kind is not Kind.ALIVE:
            raise _nonsense()
        return time.perf_counter() - begun

    def exchange(self) -> tuple[float, float]:
        """Send and receive at full speed; returns bytes per second, of what was sent and of what came."""
        pieces, arrivals = self._stream()
        came, seconds = arrivals.steady
        self.say(Frame(Kind.ACK, 0, came, int(1e6 * seconds)))
        report = self.hear()
        # no more can have arrived than was sent
        if report.kind is not Kind.ACK or not 0 < report.acknowledged <= pieces * _PIECE_BYTES:
            raise _nonsense()
        return 1e6 * report.acknowledged / max(1, report.taken), came / seconds

    def _stream(self) -> "tuple[int, _Arrivals]":
        """Send pieces until time or number is reached, and receive the other end's; returns how many left."""
        channel, arrivals = self._channel, _Arrivals()
        header, piece = pack(Frame(Kind.DATA, 1, 0, 0, length=_PIECE_BYTES)), bytes(_PIECE_BYTES)
        until = time.monotonic() + STREAM_SECONDS
        sent, is_over = 0, False
        while not (is_over and arrivals.are_over) or channel.is_full:
            if not is_over and not channel.is_full:
                is_over = sent == _MOST_PIECES or time.monotonic() > until
                if is_over:
                    channel.put(pack(Frame(Kind.END, 0, 0, 0)))
                else:
                    channel.put(header, piece)
                    sent += 1
            moved = channel.write()
            for _ in range(_READS):
                if arrivals.are_over or not channel.fill():
                    break
                moved = True
                self._sort(arrivals)
            if self._left() and not moved:
                self._wait(reading=not arrivals.are_over)
        return sent, arrivals

    def _sort(self, arrivals: "_Arrivals") -> None:
        """Count what has come whole."""
        while not arrivals.are_over:
            if arrivals.is_under_way:
                if not self._channel.has_filled():
                    return
                arrivals.count()
            frame = self._header()
            if frame is None:
                return
            if frame.kind is Kind.END:
                arrivals.are_over = True
            elif frame.length == _PIECE_BYTES:
                self._channel.receive_into(arrivals.memory)
                arrivals.is_under_way = True
            else:
                raise _nonsense()

    def _header(self) -> Frame | None:
        try:
            frame = self._channel.frame()
        except FrameError as error:
            raise _nonsense() from error
        if frame is not None:
            self._channel.skip_header()
        return frame

    def _wait(self, *, reading: bool = True) -> None:
        self._channel.wait(self._woken, self._left(), reading=reading)

    def _left(self) -> float:
        """Seconds; raises TimeoutError where none are left."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"it took longer than {MOST_SECONDS:g} s")
        return left


class _Arrivals:
    """Pieces that come.

    Attributes:
        memory: where each one lies while it comes.
        is_under_way: one has begun.
        are_over: the last one has come.
    """

    def __init__(self) -> None:
        self.memory = memoryview(bytearray(_PIECE_BYTES))
        self.is_under_way = self.are_over = False
        self._begun = self._last = time.perf_counter()
        self._pieces = 0
        self._warm = 0, self._begun  # how many had come, and when, when TCP had found its speed

    def count(self) -> None:
        """The one that is under way is whole."""
        self.is_under_way = False
        self._pieces += 1
        before, self._last = self._last, time.perf_counter()
        warm = self._begun + _WARM_SHARE * STREAM_SECONDS
        if before < warm <= self._last or (
            self._pieces == int(_WARM_SHARE * _MOST_PIECES) and self._last < warm
        ):
            self._warm = self._pieces, self._last

    @property
    def steady(self) -> tuple[int, float]:
        """Bytes that came at TCP's full speed, and in how many seconds; raises OSError where nothing came."""
        if not self._pieces:
            raise ConnectionError(f"nothing arrived in {STREAM_SECONDS:g} s")
        pieces, since = self._warm
        if pieces == self._pieces:  # on a line so slow that these are all
            pieces, since = 0, self._begun
        return (self._pieces - pieces) * _PIECE_BYTES, max(1e-6, self._last - since)
