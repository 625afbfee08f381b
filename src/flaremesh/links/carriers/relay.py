"""Streams through the NVFlare server, over a transport that may lose, repeat or reorder what it brings.

A stream is cut into pieces, which say where they lie in it. The receiver tells how far it has all of them, and
the sender repeats what was lost. The server forwards pieces of a TLS session, which it can neither read nor
change unnoticed: all that it can do is to end it.
"""

import secrets
import select
import socket
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import IntEnum
from typing import NamedTuple, Protocol

from typing_extensions import override

from flaremesh.links.carrier import Address, Arrival, Carrier
from flaremesh.links.link import Payload, Refusal
from flaremesh.topology.links import LinkKind

_LAYOUT = struct.Struct("<4sB3x8sQQ")
_MAGIC = b"FMST"
HEADER_BYTES = _LAYOUT.size
_PIECE_BYTES = 1 << 20  # the server stores and forwards whole messages: pieces keep all hops busy
_WINDOW_BYTES = 8 << 20  # under way: what is queued in NVFlare delays acknowledgements behind it
_ACK_SECONDS = 0.1  # an acknowledgement waits so long for a piece to ride on
_ACK_BYTES = 1 << 21  # and no longer than for so many bytes
_FIRST_SECONDS = 0.25  # the peer may not be up yet, so the first piece is repeated faster
_RESEND_SECONDS = 1.0  # without any progress; doubles up to the next line
_RESEND_SECONDS_MAX = 16.0
_STREAMS = 4  # of one peer at a time; a pair uses one, and makes a second one beside it
_REMEMBERED = 64  # streams of one peer that have ended: late repeats must not begin them again


class Transport(Protocol):
    """What brings messages from site to site; it may lose, repeat or reorder them."""

    def post(self, peer: str, data: bytes) -> None:
        """Send towards a site; called from any thread."""

    def listen(self, deliver: Callable[[str, Payload], None]) -> None:
        """Call ``deliver(sender, data)`` for what comes from now on; the server vouches for each sender's name."""


class _Kind(IntEnum):
    PIECE = 0  # bytes of the stream
    ACK = 1  # nothing but how far the other direction has come
    END = 2  # the stream ends here, which takes the place of one more byte


class _Piece(NamedTuple):
    kind: _Kind
    stream: bytes
    offset: int
    acknowledged: int
    payload: Payload


class RelayCarrier(Carrier):
    """One site's end of all its streams through the server.

    Args:
        transport: through the server.
        peers: the neighbours that may be reached in this way.
        arrive: called with each stream that a neighbour has begun.
        refuse: called with a sender and why what came in its name was dropped.
    """

    kind = LinkKind.RELAY

    def __init__(
        self,
        transport: Transport,
        peers: frozenset[str],
        arrive: Arrival,
        refuse: Callable[[str, Refusal], None],
    ):
        self._post, self._peers, self._arrive, self._refuse = transport.post, peers, arrive, refuse
        self._streams: dict[str, dict[bytes, _Stream]] = {peer: {} for peer in peers}
        self._ended: dict[str, OrderedDict[bytes, None]] = {peer: OrderedDict() for peer in peers}
        self._lock = threading.Lock()
        self._closed = False
        transport.listen(self.deliver)

    @override
    def open(self, addresses: Mapping[str, Address]) -> None:
        """Nothing: the server knows where everybody is."""

    @override
    def inability(self, peer: str) -> str | None:
        return None if peer in self._peers else "its kit does not let it be relayed"

    @override
    def head_start(self, peer: str, *, leads: bool) -> float | None:
        return 0.0 if leads and peer in self._peers else None

    @override
    def dial(self, peer: str, timeout: float) -> socket.socket:
        with self._lock:
            if self._closed:
                raise ConnectionError("the relay is closed")
            return self._begin(peer, secrets.token_bytes(8))

    def deliver(self, sender: str, data: Payload) -> None:
        """Take in what the transport brought in the name of ``sender``; never raises on bad input."""
        if sender not in self._peers:
            self._refuse(sender, Refusal.STRANGER)
            return
        piece = _unpack(data)
        if piece is None:
            self._refuse(sender, Refusal.MALFORMED)
            return
        begun = None
        with self._lock:
            stream = self._streams[sender].get(piece.stream)
            is_first = piece.kind is _Kind.PIECE and piece.offset == 0
            if stream is None and is_first and not self._closed and piece.stream not in self._ended[sender]:
                while len(self._streams[sender]) >= _STREAMS:
                    oldest = next(iter(self._streams[sender].values()))
                    oldest.abandon()
                    self._forget(oldest)
                begun = self._begin(sender, piece.stream)
                stream = self._streams[sender][piece.stream]
        if stream is not None:
            stream.take(piece)
        elif piece.kind is not _Kind.ACK and piece.stream in self._ended[sender]:
            # its end may have been lost: say that all has arrived
            self._post(sender, _pack(_Piece(_Kind.ACK, piece.stream, 0, 1 << 63, b"")))
        if begun is not None:
            self._arrive(begun, self.kind, sender)

    @override
    def close(self) -> None:
        with self._lock:
            self._closed = True
            streams = [stream for each in self._streams.values() for stream in each.values()]
        for stream in streams:
            stream.finish()

    def _begin(self, peer: str, number: bytes) -> socket.socket:
        near, far = socket.socketpair()
        for end in (near, far):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIECE_BYTES)
        stream = _Stream(peer, number, far, self._post, self._over)
        self._streams[peer][number] = stream
        return near

    def _over(self, stream: "_Stream") -> None:
        with self._lock:
            self._forget(stream)

    def _forget(self, stream: "_Stream") -> None:
        if self._streams[stream.peer].pop(stream.number, None) is not None:
            ended = self._ended[stream.peer]
            ended[stream.number] = None
            if len(ended) > _REMEMBERED:
                ended.popitem(last=False)


class _Stream:
    """One stream, of which this end is a socket; a thread of its own moves bytes between that and the transport.

    Args:
        peer: who is at the other end.
        number: eight random bytes that name it.
        far: the socket's other end.
        post: see Transport.
        over: called once when it has ended.
    """

    def __init__(
        self,
        peer: str,
        number: bytes,
        far: socket.socket,
        post: Callable[[str, bytes], None],
        over: Callable[["_Stream"], None],
    ):
        self.peer, self.number = peer, number
        self._far, self._post, self._over = far, post, over
        far.setblocking(False)
        self._lock = threading.Lock()
        # to the peer
        self._sent = 0  # offset of the next piece
        self._under_way: OrderedDict[int, tuple[_Kind, bytes]] = OrderedDict()  # not acknowledged, by offset
        self._has_ended = False  # this end writes no more
        self._progress = time.monotonic()
        self._patience = _FIRST_SECONDS
        # from the peer
        self._arrived = 0  # all before this offset has come
        self._ahead: dict[int, tuple[_Kind, Payload]] = {}
        self._unwritten: list[memoryview] = []
        self._waiting = 0  # bytes of both
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

    def take(self, piece: _Piece) -> None:
        """Take in what the transport brought."""
        with self._lock:
            self._settle(piece.acknowledged)
            if piece.kind is not _Kind.ACK:
                self._order(piece)
        self._rouse()

    def abandon(self) -> None:
        """End it at once."""
        self._is_abandoned = True
        self._rouse()

    def finish(self) -> None:
        """Deliver what is under way, for some seconds at most, and end; the near end has been closed."""
        self._finishing = time.monotonic() + _RESEND_SECONDS
        self._rouse()
        self._thread.join()

    def _rouse(self) -> None:
        with suppress(OSError):  # full, or closed
            self._wake.send(b"x")

    def _settle(self, acknowledged: int) -> None:
        moved = False
        while self._under_way:
            offset, (kind, data) = next(iter(self._under_way.items()))
            if offset + (1 if kind is _Kind.END else len(data)) > acknowledged:
                break
            del self._under_way[offset]
            moved = True
        if moved:
            self._progress = time.monotonic()
            # halved, not reset: a server that is merely slow must not get everything twice
            self._patience = max(self._patience / 2, _RESEND_SECONDS)

    def _order(self, piece: _Piece) -> None:
        if self._due is None:
            self._due = time.monotonic() + _ACK_SECONDS
        length = len(piece.payload)
        if piece.offset < self._arrived or piece.offset in self._ahead:
            self._due = 0.0  # it did not hear that this has come
            return
        # no honest sender goes beyond the window
        if piece.offset + length > self._arrived - self._pending() + 2 * _WINDOW_BYTES:
            return
        if self._waiting + length > 2 * _WINDOW_BYTES:
            return
        self._ahead[piece.offset] = piece.kind, piece.payload
        self._waiting += length
        while (following := self._ahead.pop(self._arrived, None)) is not None:
            kind, payload = following
            if kind is _Kind.END:
                self._is_over_there = True
                self._arrived += 1
                self._due = 0.0
                break
            self._unwritten.append(memoryview(payload))
            self._arrived += len(payload)

    def _pending(self) -> int:
        return sum(map(len, self._unwritten))

    def _keep(self) -> None:
        try:
            while not self._is_finished():
                self._turn()
        except OSError:
            pass
        finally:
            self._far.close()
            self._over(self)
            with self._lock:
                self._wake.close()
                self._woken.close()

    def _is_finished(self) -> bool:
        if self._is_abandoned:
            return True
        with self._lock:
            if self._has_ended and not self._under_way and (self._is_over_there or self._finishing):
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
        events = (select.POLLIN if self._may_read() else 0) | (select.POLLOUT if self._unwritten else 0)
        if events:
            poll.register(self._far, events)
        poll.poll(1000 * self._seconds())
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
            while len(data) < _PIECE_BYTES:
                piece = self._far.recv(_PIECE_BYTES - len(data))
                if not piece:
                    ended = True
                    break
                data += piece
        if data:
            self._send(_Kind.PIECE, bytes(data))
        if ended:
            self._has_ended = True
            self._send(_Kind.END, b"")
        return bool(data) or ended

    def _send(self, kind: _Kind, data: bytes) -> None:
        with self._lock:
            if not self._under_way:
                self._progress = time.monotonic()
            offset, self._sent = self._sent, self._sent + (len(data) or 1)
            self._under_way[offset] = kind, data
            packed = self._packed(kind, offset, data)
        self._post(self.peer, packed)

    def _packed(self, kind: _Kind, offset: int, data: Payload) -> bytes:
        self._told, self._due = self._arrived, None
        return _pack(_Piece(kind, self.number, offset, self._arrived, data))

    def _write(self) -> bool:
        """Hand to the near end what has come."""
        moved = False
        with suppress(BlockingIOError):
            while self._unwritten:
                count = self._far.send(self._unwritten[0])
                moved = True
                with self._lock:
                    self._waiting -= count
                    rest = self._unwritten[0][count:]
                    if len(rest):
                        self._unwritten[0] = rest
                    else:
                        self._unwritten.pop(0)
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
                posts.append(self._packed(_Kind.ACK, 0, b""))
        return posts


def _pack(piece: _Piece) -> bytes:
    kind, stream, offset, acknowledged, payload = piece
    return b"".join((_LAYOUT.pack(_MAGIC, kind, stream, offset, acknowledged), payload))


def _unpack(data: Payload) -> _Piece | None:
    """The piece in ``data``; None where it is none."""
    view = memoryview(data)
    if len(view) < HEADER_BYTES:
        return None
    magic, kind, stream, offset, acknowledged = _LAYOUT.unpack_from(view)
    payload = view[HEADER_BYTES:]
    if magic != _MAGIC or kind > _Kind.END or (kind == _Kind.PIECE) != (len(payload) > 0):
        return None
    return _Piece(_Kind(kind), stream, offset, acknowledged, payload)
