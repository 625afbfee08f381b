"""Links through the NVFlare server: reliable messages over a transport that may lose or repeat them.

Each directed edge numbers its frames. Acknowledgements are cumulative, and travel with data that goes the
other way where there is any.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from typing_extensions import override

from flaremesh.links.carrier import Address, Carrier, Edges, Lost, Message, Unable
from flaremesh.links.errors import PeerTimeout
from flaremesh.links.frame import Frame, FrameError, Kind, pack, run_digest, unpack
from flaremesh.links.link import FLUSH_SECONDS, Key, Payload, Refusal, require_room
from flaremesh.topology.links import LinkKind

_CHUNK_BYTES = 1 << 20  # the server stores and forwards whole frames: pieces keep all hops busy
_WINDOW_FRAMES = 8  # under way on an edge: what is queued in NVFlare delays acknowledgements behind it
_ACK_SECONDS = 0.1  # an acknowledgement waits this long for data to ride on
_ACK_FRAMES = 4  # and no longer than this many frames
_RESEND_SECONDS = 1.0  # without any progress on the edge; doubles up to the next line
_RESEND_SECONDS_MAX = 16.0
_HELLO_SECONDS = 0.25  # the peer may not be up yet, so the first frame is repeated faster
_PARTIAL_MESSAGES = 8  # of one peer, that lack pieces
_HELLO = -1  # iteration number of the greeting


class Transport(Protocol):
    """What brings frames from site to site; it may lose, repeat or reorder them."""

    def post(self, peer: str, data: bytes) -> None:
        """Send towards a site; called from any thread."""

    def listen(self, deliver: Callable[[str, Payload], None]) -> None:
        """Call ``deliver(sender, data)`` for what comes from now on; each sender has proved its name."""


@dataclass
class _Outgoing:
    """What this site sent to one peer.

    Attributes:
        sequence: number of the latest frame.
        waiting: frames for which the window has no place yet.
        unacknowledged: frames in the window, by number.
        messages, bytes: of both together.
        progress: when the peer last acknowledged something, by ``time.monotonic``.
        patience: seconds without progress after which the window is sent again.
    """

    sequence: int = 0
    waiting: deque[Frame] = field(default_factory=deque)
    unacknowledged: dict[int, Frame] = field(default_factory=dict)
    messages: int = 0
    bytes: int = 0
    progress: float = 0.0
    patience: float = _HELLO_SECONDS


@dataclass
class _Incoming:
    """What this site got from one peer.

    Attributes:
        received: all frames up to this number have arrived.
        beyond: numbers above it that have arrived, too.
        told: the number that was acknowledged to the peer last.
        due: when to tell it more at the latest, by ``time.monotonic``; None where there is nothing to tell.
        partial: messages that lack pieces, by iteration and stage.
    """

    received: int = 0
    beyond: set[int] = field(default_factory=set)
    told: int = 0
    due: float | None = None
    partial: dict[tuple[int, int], "_Partial"] = field(default_factory=dict)


@dataclass
class _Partial:
    """A message of which pieces are missing.

    Attributes:
        data: the message, (length,) bytes.
        missing: how many of these have not come.
    """

    data: bytearray
    missing: int


class RelayCarrier(Carrier):
    """One site's end of all its relayed edges; it also greets the neighbours that other carriers reach.

    Args:
        edges: the site's edges.
        transport: through the server.
    """

    kind = LinkKind.RELAY

    def __init__(self, edges: Edges, transport: Transport):
        self._edges, self._inbox, self._observer = edges, edges.inbox, edges.observer
        self._run = run_digest(edges.run_id)
        self._post = transport.post
        self._outgoing = {peer: _Outgoing() for peer in edges.targets}
        self._incoming = {peer: _Incoming() for peer in edges.sources}
        self._state = threading.Condition()
        self._closed = False
        self._keeper = threading.Thread(target=self._keep, name="relay-keeper", daemon=True)
        self._keeper.start()
        transport.listen(self.deliver)

    @override
    def open(self, addresses: Mapping[str, Address], lost: Lost, timeout: float) -> Mapping[str, Unable]:
        """Exchange greetings with all neighbours, so that no later message finds a peer that is not up.

        Raises:
            PeerTimeout: names the silent peers.
            RunAborted: while waiting for them.
        """
        for peer in self._outgoing:
            self.send(peer, Message(Key(_HELLO, 0, self._edges.site), [b""], 0))
        started = time.monotonic()
        self._inbox.take([Key(_HELLO, 0, peer) for peer in self._incoming], timeout)
        if silent := self._flush(timeout - (time.monotonic() - started)):
            raise PeerTimeout(silent, _HELLO, timeout)
        return {}

    @override
    def send(self, peer: str, message: Message) -> None:
        edge, (key, buffers, total, repeat) = self._outgoing[peer], message
        whole = memoryview(buffers[0] if len(buffers) == 1 else b"".join(buffers))
        kind = Kind.REPEAT if repeat else Kind.DATA
        with self._state:
            if not repeat:  # what is taken over from another carrier was bounded there
                require_room(peer, edge.messages, edge.bytes)
            edge.messages += 1
            edge.bytes += total
            for offset in range(0, total or 1, _CHUNK_BYTES):
                piece = whole[offset : offset + _CHUNK_BYTES]
                edge.sequence += 1
                edge.waiting.append(
                    Frame(kind, edge.sequence, 0, key.iteration, key.stage, offset, total, piece)
                )
        self._fill_window(peer)

    @override
    def close(self, *, patience: float = FLUSH_SECONDS) -> None:
        if patience:
            self._flush(patience, FLUSH_SECONDS)
        with self._state:
            self._closed = True
            self._state.notify_all()
        self._keeper.join()
        for peer in list(self._incoming):
            self._acknowledge(peer)

    def deliver(self, sender: str, data: Payload) -> None:
        """Take in what the transport brought from the authenticated ``sender``; never raises on bad input."""
        try:
            frame = unpack(data, self._run)
        except FrameError as error:
            self._observer.refused(sender, error.reason)
            return
        if frame.kind in (Kind.DATA, Kind.REPEAT):
            self._take_in(sender, frame)
        if sender in self._outgoing:
            self._settle(sender, frame.acknowledged)
        elif frame.kind is Kind.ACK:
            self._observer.refused(sender, Refusal.STRANGER)

    def _take_in(self, sender: str, frame: Frame) -> None:
        edge = self._incoming.get(sender)
        if edge is None:
            self._observer.refused(sender, Refusal.STRANGER)
            return
        if frame.total > self._edges.max_message_bytes:
            self._observer.refused(sender, Refusal.OVERSIZED)
            return
        # no honest sender goes beyond its window, or sends empty pieces of a message that is not empty
        if frame.sequence > edge.received + _WINDOW_FRAMES or len(frame.payload) == 0 < frame.total:
            self._observer.refused(sender, Refusal.MALFORMED)
            return
        message_key = frame.iteration, frame.stage
        opens = len(frame.payload) < frame.total and message_key not in edge.partial
        if self._inbox.is_full(sender) or (opens and len(edge.partial) >= _PARTIAL_MESSAGES):
            self._observer.refused(sender, Refusal.EARLY)  # not acknowledged: an honest peer sends it again
            return
        try:
            opened = _Partial(bytearray(frame.total), frame.total) if opens else None
        except MemoryError:
            self._observer.refused(sender, Refusal.OVERSIZED)
            return
        with self._state:
            duplicate = frame.sequence <= edge.received or frame.sequence in edge.beyond
            if not duplicate:
                edge.beyond.add(frame.sequence)
                while edge.received + 1 in edge.beyond:
                    edge.received += 1
                    edge.beyond.remove(edge.received)
            if opened and not duplicate:
                edge.partial.setdefault(message_key, opened)  # another thread may bring another piece
            message = None if duplicate else _completed(edge.partial, frame)
            if edge.due is None:
                edge.due = time.monotonic() + _ACK_SECONDS
                self._state.notify_all()
            overdue = duplicate or edge.received - edge.told >= _ACK_FRAMES
        if message is not None:
            key = Key(frame.iteration, frame.stage, sender)
            self._inbox.put(key, message, repeat=frame.kind is Kind.REPEAT)
            self._observer.received(sender, len(message))
        if overdue:
            self._acknowledge(sender)

    def _settle(self, peer: str, acknowledged: int) -> None:
        edge = self._outgoing[peer]
        with self._state:
            done = [sequence for sequence in edge.unacknowledged if sequence <= acknowledged]
            if not done:
                return
            for sequence in done:
                frame = edge.unacknowledged.pop(sequence)
                edge.bytes -= len(frame.payload)
                edge.messages -= frame.offset + len(frame.payload) == frame.total
            edge.progress = time.monotonic()
            # halved, not reset: a server that is merely slow must not get everything twice
            edge.patience = max(edge.patience / 2, _RESEND_SECONDS)
            self._state.notify_all()
        self._fill_window(peer)

    def _fill_window(self, peer: str) -> None:
        edge = self._outgoing[peer]
        with self._state:
            if not edge.unacknowledged:
                edge.progress = time.monotonic()
                self._state.notify_all()  # the keeper sleeps while nothing is under way
            frames = [
                edge.waiting.popleft()
                for _ in range(min(len(edge.waiting), _WINDOW_FRAMES - len(edge.unacknowledged)))
            ]
            edge.unacknowledged.update((frame.sequence, frame) for frame in frames)
        for frame in frames:
            self._transmit(peer, frame)

    def _transmit(self, peer: str, frame: Frame) -> None:
        incoming = self._incoming.get(peer)
        if incoming is not None:
            with self._state:
                frame = frame._replace(acknowledged=incoming.received)
                incoming.told = incoming.received
                incoming.due = None
        self._post(peer, pack(frame, self._run))

    def _acknowledge(self, peer: str) -> None:
        self._transmit(peer, Frame(Kind.ACK, 0, 0, 0, 0, 0, 0, b""))

    def _keep(self) -> None:
        """Send late acknowledgements and repeat what was not acknowledged."""
        while True:
            with self._state:
                if self._closed:
                    return
                now = time.monotonic()
                late = [
                    peer for peer, edge in self._incoming.items() if edge.due is not None and edge.due <= now
                ]
                lost = [
                    (peer, frame)
                    for peer, edge in self._outgoing.items()
                    if edge.unacknowledged and edge.progress + edge.patience <= now
                    for frame in edge.unacknowledged.values()
                ]
                for peer in {peer for peer, _ in lost}:
                    edge = self._outgoing[peer]
                    edge.progress = now
                    edge.patience = min(2 * edge.patience, _RESEND_SECONDS_MAX)
                if not late and not lost:
                    self._state.wait(self._next_due() - now)
                    continue
            for peer in late:
                self._acknowledge(peer)
            for peer, frame in lost:
                self._transmit(peer, frame)

    def _next_due(self) -> float:
        waits = [edge.due for edge in self._incoming.values() if edge.due is not None]
        waits += [edge.progress + edge.patience for edge in self._outgoing.values() if edge.unacknowledged]
        return min(waits, default=time.monotonic() + _RESEND_SECONDS_MAX)

    def _flush(self, timeout: float, silence: float = math.inf) -> set[str]:
        """Wait until everything is acknowledged; returns the peers that did not answer in time.

        It gives up after ``silence`` seconds without any acknowledgement: a peer that has ended sends none.
        """
        started = heard = time.monotonic()
        before = None
        with self._state:
            while left := {
                peer: count
                for peer, edge in self._outgoing.items()
                if (count := len(edge.unacknowledged) + len(edge.waiting))
            }:
                now = time.monotonic()
                if left != before:
                    heard, before = now, left
                remaining = min(started + timeout, heard + silence) - now
                if remaining <= 0 or self._inbox.cancelled():
                    return set(left)
                self._state.wait(min(remaining, 0.2))
        return set()


def _completed(partial: dict[tuple[int, int], _Partial], frame: Frame) -> Payload | None:
    """The whole message if ``frame`` completes it."""
    if len(frame.payload) == frame.total:
        return frame.payload
    key = (frame.iteration, frame.stage)
    message = partial.get(key)
    if message is None or len(message.data) != frame.total:
        return None
    message.data[frame.offset : frame.offset + len(frame.payload)] = frame.payload
    message.missing -= len(frame.payload)
    if message.missing > 0:
        return None
    return memoryview(partial.pop(key).data)
