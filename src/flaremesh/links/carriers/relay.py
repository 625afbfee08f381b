"""Streams through the NVFlare server.

It forwards pieces of a TLS session, which it can neither read nor change unnoticed: all that it can do is to
end it.
"""

import secrets
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Protocol

from typing_extensions import override

from flaremesh.links.carrier import Address, Arrival, Carrier
from flaremesh.links.carriers.stream import PIECE_BYTES, PieceKind, Stream, gone, unpack
from flaremesh.links.link import Payload, Refusal
from flaremesh.topology.links import LinkKind

_STREAMS = 4  # of one peer at a time; a pair uses one, and makes a second one beside it
_ENDING = 4  # of one peer that may be ending beside them
_BEGUN = 8  # that may begin at once in the name of one peer
_BEGIN_SECONDS = 0.25  # in which one more may
_REMEMBERED = 64  # streams of one peer that have ended: late repeats must not begin them again


class Transport(Protocol):
    """What brings messages from site to site; it may lose, repeat or reorder them."""

    def post(self, peer: str, data: bytes) -> None:
        """Send towards a site; called from any thread."""

    def listen(self, deliver: Callable[[str, Payload], None]) -> None:
        """Call ``deliver(sender, data)`` for what comes from now on; the server vouches for the sender."""


class RelayCarrier(Carrier):
    """One site's end of all its streams through the server.

    Args:
        transport: through the server.
        peers: the neighbours that may be reached in this way.
        arrive: called with each stream that a neighbour has begun.
        refuse: called with a sender and why what came in its name was dropped.
    """

    kind = LinkKind.RELAY
    is_forwarded = True

    def __init__(
        self,
        transport: Transport,
        peers: frozenset[str],
        arrive: Arrival,
        refuse: Callable[[str, Refusal], None],
    ):
        self._post, self._peers, self._arrive, self._refuse = transport.post, peers, arrive, refuse
        self._streams: dict[str, dict[bytes, Stream]] = {peer: {} for peer in peers}
        self._ended: dict[str, OrderedDict[bytes, None]] = {peer: OrderedDict() for peer in peers}
        self._ending: dict[str, set[Stream]] = {peer: set() for peer in peers}  # made room for others
        self._due = dict.fromkeys(peers, 0.0)  # when all streams would have begun at the permitted rate
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
            return self._begin(peer, secrets.token_bytes(8), dials=True)

    def deliver(self, sender: str, data: Payload) -> None:
        """Take in what the transport brought in the name of ``sender``; never raises on bad input."""
        if sender not in self._peers:
            self._refuse(sender, Refusal.STRANGER)
            return
        piece = unpack(data)
        if piece is None:
            self._refuse(sender, Refusal.MALFORMED)
            return
        begun, is_one_too_many = None, False
        with self._lock:
            stream = self._streams[sender].get(piece.stream)
            has_ended = piece.stream in self._ended[sender]
            is_first = piece.kind is PieceKind.BEGIN and piece.offset == 0
            if stream is None and is_first and not self._closed and not has_ended:
                is_one_too_many = not self._may_begin(sender)
                if not is_one_too_many:
                    begun = self._begin(sender, piece.stream, dials=False)
                    stream = self._streams[sender][piece.stream]
        if stream is not None:
            stream.take(piece)
        elif is_one_too_many:
            self._refuse(sender, Refusal.OVERLOAD)  # an honest one comes again
        elif has_ended and piece.kind in (PieceKind.PIECE, PieceKind.END):
            self._post(sender, gone(piece.stream))
        if begun is not None:
            self._arrive(begun, self.kind, sender)

    @override
    def close(self) -> None:
        with self._lock:
            self._closed = True
            streams = [stream for each in self._streams.values() for stream in each.values()]
            ending = [stream for each in self._ending.values() for stream in each]
        for stream in streams:
            stream.finish()
        for stream in streams + ending:
            stream.join()

    def _may_begin(self, peer: str) -> bool:
        """Whether one more stream may begin in the name of ``peer``, which the oldest one makes room for."""
        now, due = time.monotonic(), self._due[peer]
        if due - now > _BEGUN * _BEGIN_SECONDS or len(self._ending[peer]) >= _ENDING:
            return False
        self._due[peer] = max(due, now) + _BEGIN_SECONDS
        while len(self._streams[peer]) >= _STREAMS:
            oldest = next(iter(self._streams[peer].values()))
            self._ending[peer].add(oldest)
            self._forget(oldest)
            oldest.abandon()
        return True

    def _begin(self, peer: str, number: bytes, *, dials: bool) -> socket.socket:
        near, far = socket.socketpair()
        for end in (near, far):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE_BYTES)
        stream = Stream(peer, number, far, self._post, self._over, dials=dials)
        self._streams[peer][number] = stream
        return near

    def _over(self, stream: "Stream") -> None:
        with self._lock:
            self._ending[stream.peer].discard(stream)
            self._forget(stream)

    def _forget(self, stream: "Stream") -> None:
        if self._streams[stream.peer].pop(stream.number, None) is not None:
            ended = self._ended[stream.peer]
            ended[stream.number] = None
            if len(ended) > _REMEMBERED:
                ended.popitem(last=False)
