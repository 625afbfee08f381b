"""Streams through the NVFlare server.

It forwards pieces of a TLS session, which it can neither read nor change unnoticed: all that it can do is to
end it.
"""

import secrets
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Protocol

from typing_extensions import override

from flaremesh.links.carrier import Address, Arrival, Carrier
from flaremesh.links.carriers.stream import PIECE_BYTES, Piece, PieceKind, Stream, pack, unpack
from flaremesh.links.link import Payload, Refusal
from flaremesh.topology.links import LinkKind

_STREAMS = 4  # of one peer at a time; a pair uses one, and makes a second one beside it
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
        piece = unpack(data)
        if piece is None:
            self._refuse(sender, Refusal.MALFORMED)
            return
        begun = None
        with self._lock:
            stream = self._streams[sender].get(piece.stream)
            is_first = piece.kind is PieceKind.PIECE and piece.offset == 0
            if stream is None and is_first and not self._closed and piece.stream not in self._ended[sender]:
                while len(self._streams[sender]) >= _STREAMS:
                    oldest = next(iter(self._streams[sender].values()))
                    oldest.abandon()
                    self._forget(oldest)
                begun = self._begin(sender, piece.stream)
                stream = self._streams[sender][piece.stream]
        if stream is not None:
            stream.take(piece)
        elif piece.kind is not PieceKind.ACK and piece.stream in self._ended[sender]:
            # its end may have been lost: say that all has arrived
            self._post(sender, pack(Piece(PieceKind.ACK, piece.stream, 0, 1 << 63, b"")))
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
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE_BYTES)
        stream = Stream(peer, number, far, self._post, self._over)
        self._streams[peer][number] = stream
        return near

    def _over(self, stream: "Stream") -> None:
        with self._lock:
            self._forget(stream)

    def _forget(self, stream: "Stream") -> None:
        if self._streams[stream.peer].pop(stream.number, None) is not None:
            ended = self._ended[stream.peer]
            ended[stream.number] = None
            if len(ended) > _REMEMBERED:
                ended.popitem(last=False)
