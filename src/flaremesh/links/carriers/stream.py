"""One stream through a transport that may lose, repeat or reorder what it brings.

A stream is cut into pieces, which say where they lie in it. The receiver tells how far it has all of them,
and the sender repeats what was lost.
"""

import select
import socket
import struct
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from typing import Final, NamedTuple

from flaremesh.links.link import Payload

_LAYOUT = struct.Struct("<4sB3x8sQQ")
_MAGIC = b"FMST"
HEADER_BYTES = _LAYOUT.size
PIECE_BYTES: Final = 1 << 20
"""The server stores and forwards whole pieces: these keep all hops busy."""

_ENTRY_BYTES = 1024  # what keeping a piece costs, however short it is
_WINDOW_BYTES = 8 << 20  # under way: what is queued in NVFlare delays acknowledgements behind it
_ACK_SECONDS = 0.1  # an acknowledgement waits so long for a piece to ride on
_ACK_BYTES = 1 << 21  # and no longer than for so many bytes
_FIRST_SECONDS = 0.25  # the peer may not be up yet, so the first piece is repeated faster
_RESEND_SECONDS = 1.0  # without any progress; doubles up to the next line
_RESEND_SECONDS_MAX = 16.0
_GONE_SECONDS = 60.0  # a stream whose bytes stay unacknowledged for so long is broken
_LINGER_SECONDS = 2.0  # for what is under way, when nobody reads or writes the near end any more


class PieceKind(IntEnum):
    """What a piece is for."""

    PIECE = 0  # bytes of the stream
    ACK = 1  # nothing but how far the other direction has come
    END = 2  # the stream ends here, which takes the place of one more byte
    BEGIN = 3  # whoever dials has begun it, which takes the place of the first byte
    GONE = 4  # this end of the stream has ended altogether, and forgotten how far it was


class Piece(NamedTuple):
    """What the transport brings at a time.

    Attributes:
        kind: what it is for.
        stream: eight bytes that name the stream.
        offset: where the payload lies in the stream.
        acknowledged: all before this offset of the opposite direction has come.
        payload: bytes of the stream.
    """

    kind: PieceKind
    stream: bytes
    offset: int
    acknowledged: int
    payload: Payload


class Stream:
    """One stream, of which this end is a socket; its thread moves bytes between that and the transport.

    Args:
        peer: who is at the other end.
        number: eight random bytes that name it.
        far: the socket's other end.
        post: see Transport.
        over: called once when it has ended.
        dials: whether this end begins it.
    """

    def __init__(
        self,
        peer: str,
        number: bytes,
        far: socket.socket,
        post: Callable[[str, bytes], None],
        over: Callable[["Stream"], None],
        *,
        dials: bool,
    ):
        self.peer, self.number, self._dials = peer, number, dials
        self._far, self._post, self._over = far, post, over
        far.setblocking(False)
        self._lock = threading.Lock()
        # to the peer
        self._sent = 0  # offset of the next piece
        self._under_way: OrderedDict[int, tuple[PieceKind, bytes]] = OrderedDict()  # by offset
        self._has_ended = False  # this end writes no more
        self._progress = time.monotonic()
        self._settled = self._progress  # when some bytes were acknowledged, or the first ones left
        self._patience = _FIRST_SECONDS
        # from the peer
        self._arrived = 0  # all before this offset has come
        self._ahead: dict[int, tuple[PieceKind, Payload]] = {}
        self._unwritten: deque[memoryview] = deque()
        self._unwritten_bytes = 0
        self._kept = 0  # bytes that both take
        self._told = 0
        self._due: float | None = None  # when to acknowledge at the latest
        self._is_over_there = False  # the peer writes no more
        self._finishing: float | None = None
        self._is_abandoned = False
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)
        self._thread = threading.Thread(target=self._keep, name=f"relay-{peer}", daemon=True)
        self._thread.start()

    def take(self, piece: Piece) -> None:
        """Take in what the transport brought."""
        if piece.kind is PieceKind.GONE:
            self.abandon()
            return
        with self._lock:
            self._settle(piece.acknowledged)
            if piece.kind is not PieceKind.ACK:
                self._order(piece)
        self._rouse()

    def abandon(self) -> None:
        """End it at once."""
        self._is_abandoned = True
        self._rouse()

    def finish(self) -> None:
        """Deliver what is under way, for some seconds at most, and end; the near end has been closed."""
        self._finishing = time.monotonic() + _LINGER_SECONDS
        self._rouse()

    def join(self) -> None:
        """Wait until it has ended, after `abandon` or `finish`."""
        self._thread.join()

    def _rouse(self) -> None:
        with suppress(OSError):  # full, or closed
            self._wake.send(b"x")

    def _settle(self, acknowledged: int) -> None:
        moved = False
        while self._under_way:
            offset, (_, data) = next(iter(self._under_way.items()))
            if offset + (len(data) or 1) > acknowledged:
                break
            del self._under_way[offset]
            moved = True
        if moved:
            self._progress = self._settled = time.monotonic()
            # halved, not reset: a server that is merely slow must not get everything twice
            self._patience = max(self._patience / 2, _RESEND_SECONDS)

    def _order(self, piece: Piece) -> None:
        if self._due is None:
            self._due = time.monotonic() + _ACK_SECONDS
        known = self._arrived - piece.offset
        if 0 < known < len(piece.payload):  # only its beginning has come; a copy, so that no more is kept
            piece = piece._replace(offset=self._arrived, payload=bytes(piece.payload[known:]))
        length = len(piece.payload)
        if self._is_over_there or piece.offset < self._arrived or piece.offset in self._ahead:
            self._due = 0.0  # it did not hear that this has come
            return
        # no honest sender goes beyond the window
        if piece.offset + length > self._arrived - self._unwritten_bytes + 2 * _WINDOW_BYTES:
            return
        if self._kept + length + _ENTRY_BYTES > 2 * _WINDOW_BYTES:
            return
        self._ahead[piece.offset] = piece.kind, piece.payload
        self._kept += length + _ENTRY_BYTES
        while (following := self._ahead.pop(self._arrived, None)) is not None:
            kind, payload = following
            if kind is PieceKind.END:
                self._is_over_there = True
                self._arrived += 1
                self._due = 0.0
                self._ahead.clear()  # nothing comes after the end
                break
            if kind is PieceKind.PIECE:
                self._unwritten.append(memoryview(payload))
                self._unwritten_bytes += len(payload)
            else:
                self._kept -= _ENTRY_BYTES
            self._arrived += len(payload) or 1

    def _keep(self) -> None:
        try:
            if self._dials:
                self._send(PieceKind.BEGIN, b"")
            while not self._is_finished():
                self._turn()
        except OSError:
            pass
        finally:
            self._far.close()
            if not self._has_ended or self._under_way:
                self._post(self.peer, gone(self.number))
            with self._lock:
                self._wake.close()
                self._woken.close()
            self._over(self)

    def _is_finished(self) -> bool:
        if self._is_abandoned:
            return True
        with self._lock:
            if self._under_way and time.monotonic() > self._settled + _GONE_SECONDS:
                return True
            has_all = self._is_over_there and not self._unwritten
            if self._has_ended and not self._under_way and (has_all or self._finishing is not None):
                return True
        return self._finishing is not None and time.monotonic() > self._finishing

    def _turn(self) -> None:
        """Move what can be moved, and wait for more."""
        moved = self._write() | self._read()
        posts = self._due_posts()
        for data in posts:
            self._post(self.peer, data)
        if moved or posts:
            return
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        if self._finishing is None:  # else it would report without end that the near end is closed
            events = (select.POLLIN if self._may_read() else 0) | (select.POLLOUT if self._unwritten else 0)
            poll.register(self._far, events)
        for descriptor, event in poll.poll(1000 * self._seconds()):
            if descriptor != self._woken.fileno() and event & select.POLLHUP and self._finishing is None:
                self._finishing = time.monotonic() + _LINGER_SECONDS
        with suppress(BlockingIOError):
            self._woken.recv(4096)

    def _seconds(self) -> float:
        now = time.monotonic()
        waits = [_RESEND_SECONDS_MAX]
        with self._lock:
            if self._due is not None:
                waits.append(self._due - now)
            if self._under_way:
                waits.append(self._progress + self._patience - now)
        if self._finishing is not None:
            waits.append(self._finishing - now)
        return max(0.0, min(waits))

    def _may_read(self) -> bool:
        if self._has_ended:
            return False
        with self._lock:
            first = next(iter(self._under_way), self._sent)
        return self._sent - first < _WINDOW_BYTES

    def _read(self) -> bool:
        """Send what the near end has written."""
        if not self._may_read():
            return False
        data = bytearray()
        ended = False
        with suppress(BlockingIOError):
            while len(data) < PIECE_BYTES:
                piece = self._far.recv(PIECE_BYTES - len(data))
                if not piece:
                    ended = True
                    break
                data += piece
        if data:
            self._send(PieceKind.PIECE, bytes(data))
        if ended:
            self._has_ended = True
            self._send(PieceKind.END, b"")
        return bool(data) or ended

    def _send(self, kind: PieceKind, data: bytes) -> None:
        with self._lock:
            if not self._under_way:
                self._progress = self._settled = time.monotonic()
            offset, self._sent = self._sent, self._sent + (len(data) or 1)
            self._under_way[offset] = kind, data
            packed = self._packed(kind, offset, data)
        self._post(self.peer, packed)

    def _packed(self, kind: PieceKind, offset: int, data: Payload) -> bytes:
        self._told, self._due = self._arrived, None
        return pack(Piece(kind, self.number, offset, self._arrived, data))

    def _write(self) -> bool:
        """Hand to the near end what has come."""
        moved = False
        with suppress(BlockingIOError):
            while self._unwritten:
                count = self._far.send(self._unwritten[0])
                moved = True
                with self._lock:
                    self._kept -= count
                    self._unwritten_bytes -= count
                    rest = self._unwritten[0][count:]
                    if len(rest):
                        self._unwritten[0] = rest
                    else:
                        self._unwritten.popleft()
                        self._kept -= _ENTRY_BYTES
        if self._is_over_there and not self._unwritten:
            with suppress(OSError):
                self._far.shutdown(socket.SHUT_WR)
        return moved

    def _due_posts(self) -> list[bytes]:
        """Acknowledgements that are late, and what has to be repeated."""
        now = time.monotonic()
        posts: list[bytes] = []
        with self._lock:
            if self._under_way and self._progress + self._patience <= now:
                self._progress = now
                self._patience = min(2 * self._patience, _RESEND_SECONDS_MAX)
                posts += [
                    self._packed(kind, offset, data) for offset, (kind, data) in self._under_way.items()
                ]
            is_due = self._due is not None and self._due <= now
            if is_due or self._arrived - self._told >= _ACK_BYTES:
                posts.append(self._packed(PieceKind.ACK, 0, b""))
        return posts


def pack(piece: Piece) -> bytes:
    """The bytes of a piece."""
    kind, stream, offset, acknowledged, payload = piece
    return b"".join((_LAYOUT.pack(_MAGIC, kind, stream, offset, acknowledged), payload))


def gone(stream: bytes) -> bytes:
    """The bytes that say to the other end of a stream that there is none at this one any more."""
    return pack(Piece(PieceKind.GONE, stream, 0, 0, b""))


def unpack(data: Payload) -> Piece | None:
    """The piece in ``data``; None where it is none."""
    view = memoryview(data)
    if len(view) < HEADER_BYTES:
        return None
    magic, kind, stream, offset, acknowledged = _LAYOUT.unpack_from(view)
    payload = view[HEADER_BYTES:]
    if magic != _MAGIC or kind > PieceKind.GONE or (kind == PieceKind.PIECE) != (len(payload) > 0):
        return None
    return Piece(PieceKind(kind), stream, offset, acknowledged, payload)
