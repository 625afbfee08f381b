"""Links through the NVFlare server: reliable messages over a transport that may lose or repeat them.

The transport is two functions, so that this module knows neither NVFlare nor sockets: ``post(peer, bytes)``
sends towards a peer and may lose it, ``deliver(sender, bytes)`` is called with what arrived, where ``sender``
has been authenticated by the transport. Each directed edge numbers its frames; acknowledgements are
cumulative and ride on data going the other way where there is any.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from flaremesh.links.frame import Frame, FrameError, Kind, pack, run_digest, unpack
from flaremesh.links.inbox import Inbox
from flaremesh.links.protocol import (
    FLUSH_SECONDS,
    MAX_MESSAGE_BYTES,
    Key,
    LinkError,
    LinkObserver,
    Payload,
    PeerTimeout,
    Refusal,
    length_of,
)

_CHUNK_BYTES = 1 << 20  # the server stores and forwards whole frames: pieces keep all hops busy
_WINDOW_FRAMES = 8  # under way on an edge: what is queued in NVFlare delays acknowledgements behind it
_ACK_SECONDS = 0.1  # an acknowledgement waits this long for data to ride on
_ACK_FRAMES = 4  # and no longer than this many frames
_RESEND_SECONDS = 1.0  # without any progress on the edge; doubles up to the next line
_RESEND_SECONDS_MAX = 16.0
_HELLO_SECONDS = 0.25  # the peer may not be up yet, so the first frame is repeated faster
_PARTIAL_MESSAGES = 8  # of one peer, that lack pieces
_HELLO = -1  # iteration number of the greeting

Post = Callable[[str, bytes], None]


@dataclass
class _Outgoing:
    """What this site sent to one peer."""

    sequence: int = 0
    waiting: deque[Frame] = field(default_factory=deque)  # for a place in the window
    unacknowledged: dict[int, Frame] = field(default_factory=dict)
    progress: float = 0.0
    patience: float = _HELLO_SECONDS


@dataclass
class _Incoming:
    """What this site got from one peer."""

    received: int = 0  # all frames up to this number have arrived
    beyond: set[int] = field(default_factory=set)
    told: int = 0  # the number that the peer has been told
    due: float | None = None  # when to tell it at the latest
    partial: dict[tuple[int, int], "_Partial"] = field(default_factory=dict)


@dataclass
class _Partial:
    """A message of which pieces are missing."""

    data: bytearray
    missing: int


class RelayLink:
    """One site's end of all its relayed edges.

    Args:
        site: name of this site.
        run_id: the run; frames of other runs are refused.
        sources: in-neighbours, whose data is accepted.
        targets: out-neighbours, to whom data is sent.
        post: sends bytes towards a peer; called from any thread.
        observer: hears of traffic and refusals.
        inbox: where messages are put.
        max_message_bytes: longer messages are refused.
    """

    def __init__(
        self,
        site: str,
        run_id: str,
        sources: Collection[str],
        targets: Collection[str],
        post: Post,
        observer: LinkObserver,
        inbox: Inbox,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ):
        self._site = site
        self._run = run_digest(run_id)
        self._post = post
        self._observer = observer
        self._max_message_bytes = max_message_bytes
        self._inbox = inbox
        self._outgoing = {peer: _Outgoing() for peer in targets}
        self._incoming = {peer: _Incoming() for peer in sources}
        self._state = threading.Condition()
        self._closed = False
        self._keeper = threading.Thread(target=self._keep, name="relay-keeper", daemon=True)
        self._keeper.start()

    def open(self, timeout: float) -> None:
        """Exchange greetings with all neighbours, so that no later message is early.

        Raises PeerTimeout naming the silent peers, or RunAborted.
        """
        for peer in self._outgoing:
            self.send(peer, Key(_HELLO, 0, self._site), [b""])
        started = time.monotonic()
        self._inbox.take([Key(_HELLO, 0, peer) for peer in self._incoming], timeout)
        if silent := self._flush(timeout - (time.monotonic() - started)):
            raise PeerTimeout(silent, _HELLO, timeout)

    def send(self, peer: str, key: Key, buffers: Sequence[Payload], *, repeat: bool = False) -> None:
        """See Link.send; a ``repeat`` may have arrived over another link before."""
        edge = self._outgoing.get(peer)
        if edge is None:
            raise LinkError(f"{self._site} has no edge to {peer}")
        total = length_of(peer, key, buffers)
        message = memoryview(buffers[0] if len(buffers) == 1 else b"".join(buffers))
        kind = Kind.REPEAT if repeat else Kind.DATA
        with self._state:
            for offset in range(0, total or 1, _CHUNK_BYTES):
                piece = message[offset : offset + _CHUNK_BYTES]
                edge.sequence += 1
                edge.waiting.append(
                    Frame(kind, edge.sequence, 0, key.iteration, key.stage, offset, total, piece)
                )
        self._fill_window(peer)
        self._observer.sent(peer, total)

    def receive(self, keys: Collection[Key], timeout: float) -> dict[Key, Payload]:
        """See Link.receive."""
        return self._inbox.take(keys, timeout)

    def close(self, *, patience: float = FLUSH_SECONDS) -> None:
        """See Link.close."""
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
        if frame.total > self._max_message_bytes:
            self._observer.refused(sender, Refusal.OVERSIZED)
            return
        # no honest sender goes beyond its window, or sends pieces of nothing
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
            message = None if duplicate else _assemble(edge.partial, frame)
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
                del edge.unacknowledged[sequence]
            edge.progress = time.monotonic()
            # back to normal by and by: a server that is merely slow must not get everything twice
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

        ``silence`` is for how long nothing may be acknowledged: who is gone took the last word along.
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


def _assemble(partial: dict[tuple[int, int], _Partial], frame: Frame) -> Payload | None:
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
