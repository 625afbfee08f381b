"""Links through the NVFlare server: reliable messages over a transport that may lose or repeat them.

Each directed edge numbers its frames. Acknowledgements are cumulative, and travel with data that goes the
other way where there is any.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from typing_extensions import override

from flaremesh.links import life
from flaremesh.links.authentication import Greeter
from flaremesh.links.carrier import Address, Carrier, Edges, Lost, Message, Unable
from flaremesh.links.credentials import Credentials
from flaremesh.links.errors import PeerTimeout
from flaremesh.links.frame import Frame, FrameError, Kind, is_greeting, pack, run_digest, unpack
from flaremesh.links.life import RelayedLife
from flaremesh.links.link import FLUSH_SECONDS, Key, Payload, Refusal, condition_after, require_room
from flaremesh.links.window import Incoming, Outgoing, Unfinished
from flaremesh.topology.links import LinkKind

_CHUNK_BYTES = 1 << 20  # the server stores and forwards whole frames: pieces keep all hops busy
_WINDOW_FRAMES = 8  # under way on an edge: what is queued in NVFlare delays acknowledgements behind it
_ACK_SECONDS = 0.1  # an acknowledgement waits this long for data to ride on
_ACK_FRAMES = 4  # and no longer than this many frames
_RESEND_SECONDS = 1.0  # without any progress on the edge; doubles up to the next line
_RESEND_SECONDS_MAX = 16.0
_PARTIAL_MESSAGES = 8  # of one peer, that lack pieces
_HELLO = -1  # iteration number of the greeting


class Transport(Protocol):
    """What brings frames from site to site; it may lose, repeat or reorder them."""

    def post(self, peer: str, data: bytes) -> None:
        """Send towards a site; called from any thread."""

    def listen(self, deliver: Callable[[str, Payload], None]) -> None:
        """Call ``deliver(sender, data)`` for what comes from now on; each sender has proved its name."""


class RelayCarrier(Carrier):
    """One site's end of all its relayed edges; it also greets the neighbours that other carriers reach.

    Args:
        edges: the site's edges.
        transport: through the server.
        credentials: of this site; None: nothing is authenticated but by the transport.

    Raises:
        LinkError: the credentials cannot be used.
    """

    kind = LinkKind.RELAY

    def __init__(self, edges: Edges, transport: Transport, credentials: Credentials | None = None):
        self._edges, self._inbox, self._observer = edges, edges.inbox, edges.observer
        self._run = run_digest(edges.run_id)
        self._post = transport.post
        self._outgoing = {peer: Outgoing() for peer in edges.targets}
        self._incoming = {peer: Incoming() for peer in edges.sources}
        peers = edges.sources | edges.targets
        self._greeter = Greeter(edges.site, edges.run_id, peers, credentials) if credentials else None
        self._life = RelayedLife(peers)
        edges.settled.update({peer: partial(self._settled, peer) for peer in edges.targets})
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
        started = time.monotonic()
        if self._greeter is not None:
            self._greeter.begin()
            with self._state:
                self._state.notify_all()  # the keeper greets
        for peer in self._outgoing:
            self.send(peer, Message(Key(_HELLO, 0, self._edges.site), [b""], 0))
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
            edge.longest = max(edge.longest, total)
            if not repeat:  # what is taken over from another carrier was bounded there
                require_room(peer, edge.messages, edge.bytes, edge.longest)
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
            frame = unpack(self._authenticated(sender, data), self._run)
            if frame.kind in (Kind.DATA, Kind.REPEAT):
                self._take_in(sender, frame)
            elif frame.kind is Kind.HELLO:
                self._hear(sender, frame.payload)
                return  # its signature does not cover the header
            elif frame.kind is Kind.ALIVE:
                self._life.take(sender, frame.sequence)
                self.assure(sender)  # an edge that is relayed one way may be so the other way, too
            elif frame.kind is not Kind.ACK:
                raise FrameError(Refusal.MALFORMED)
            elif sender not in self._outgoing:
                raise FrameError(Refusal.STRANGER)
            if sender in self._outgoing:
                self._settle(sender, frame.acknowledged)
        except FrameError as error:
            self._observer.refused(sender, error.reason)

    @override
    def condition(self, peer: str) -> str | None:
        edge = self._incoming.get(peer)
        return condition_after(Refusal.OVERSIZED) if edge is not None and edge.oversized else None

    @override
    def assure(self, peer: str) -> None:
        if self._edges.tolerance is not None and self._life.assure(peer):
            with self._state:
                self._state.notify_all()

    @override
    def heard(self, peer: str) -> float:
        edge = self._incoming.get(peer)
        return -math.inf if edge is not None and edge.oversized else self._life.heard(peer)

    @override
    def healing(self, peer: str) -> float:
        tolerance = self._edges.tolerance
        if tolerance is None or peer in self._edges.connected:
            return -math.inf
        heard = self.heard(peer)
        is_silent = time.monotonic() > heard + life.SILENT_SECONDS
        return heard + tolerance.unheard if is_silent else -math.inf

    def _settled(self, peer: str) -> bool:
        """Whether all that was sent to ``peer`` has arrived."""
        edge = self._outgoing[peer]
        with self._state:
            return not edge.unacknowledged and not edge.waiting

    def _authenticated(self, sender: str, data: Payload) -> Payload:
        """The frame that ``sender`` has made; greetings prove it by what they hold."""
        if sender not in self._outgoing and sender not in self._incoming:
            raise FrameError(Refusal.STRANGER)
        if self._greeter is None or is_greeting(data):
            return data
        session = self._greeter.session(sender)
        if session is None:
            raise FrameError(Refusal.EARLY)
        return session.opened(data)

    def _hear(self, peer: str, greeting: Payload) -> None:
        if self._greeter is None:
            raise FrameError(Refusal.MALFORMED)
        answer = self._greeter.hear(peer, greeting)
        if answer.greeting is not None:
            self._greet(peer, answer.greeting)
        if answer.opened and peer in self._outgoing:
            self._fill_window(peer)

    def _greet(self, peer: str, greeting: bytes) -> None:
        self._post(peer, pack(Frame(Kind.HELLO, 0, 0, 0, 0, 0, len(greeting), greeting), self._run))

    def _take_in(self, sender: str, frame: Frame) -> None:
        edge = self._incoming.get(sender)
        if edge is None:
            raise FrameError(Refusal.STRANGER)
        # no honest sender goes beyond its window, or sends empty pieces of a message that is not empty
        if frame.sequence > edge.received + _WINDOW_FRAMES or len(frame.payload) == 0 < frame.total:
            raise FrameError(Refusal.MALFORMED)
        greets = frame.iteration == _HELLO and frame.total == 0
        new = frame.sequence > edge.received and frame.sequence not in edge.beyond
        # one over which nothing has come yet may be there already: its sender waits until all of this has
        settled = not new or greets or self._edges.arriving.get(sender) is self.kind
        end_connection = None if settled else self._edges.connected.get(sender)
        if end_connection is not None:
            end_connection()  # which its sender has given up, though the network has not told this end
            raise FrameError(Refusal.CARRIER)  # not acknowledged: it is taken once that connection is gone
        message_key = frame.iteration, frame.stage
        whole = len(frame.payload) == frame.total
        opened = None
        if whole or message_key not in edge.partial:
            unfinished = list(edge.partial.values())  # at once, since other threads bring pieces, too
            under_way = sum(len(message.data) for message in unfinished)
            refusal = self._edges.refusal(sender, frame.total, under_way)
            if refusal is None and not whole and len(unfinished) >= _PARTIAL_MESSAGES:
                refusal = Refusal.EARLY
            edge.oversized = refusal is Refusal.OVERSIZED
            if refusal is not None:
                raise FrameError(refusal)  # not acknowledged: an honest peer sends it again
            try:
                opened = None if whole else Unfinished(bytearray(frame.total), frame.total)
            except MemoryError:
                raise FrameError(Refusal.OVERSIZED) from None
        with self._state:
            duplicate = frame.sequence <= edge.received or frame.sequence in edge.beyond
            if not duplicate:
                edge.beyond.add(frame.sequence)
                while edge.received + 1 in edge.beyond:
                    edge.received += 1
                    edge.beyond.remove(edge.received)
            if opened and not duplicate:
                edge.partial.setdefault(message_key, opened)  # another thread may bring another piece
            message = None if duplicate else edge.completed(frame)
            if edge.due is None:
                edge.due = time.monotonic() + _ACK_SECONDS
                self._state.notify_all()
            overdue = duplicate or edge.received - edge.told >= _ACK_FRAMES
        if message is not None:
            key = Key(frame.iteration, frame.stage, sender)
            if greets:
                self._inbox.put(key, message)
            else:
                self._edges.store(self.kind, key, message, repeat=frame.kind is Kind.REPEAT)
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
        if self._greeter is not None and self._greeter.session(peer) is None:
            return  # `_hear` will call again
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
        session = self._greeter.session(peer) if self._greeter is not None else None
        self._post(peer, pack(frame, self._run, session.tag if session is not None else None))

    def _acknowledge(self, peer: str) -> None:
        self._tell(peer, Frame(Kind.ACK, 0, 0, 0, 0, 0, 0, b""))

    def _tell(self, peer: str, frame: Frame) -> None:
        """Transmit what may be lost, once there is a session."""
        if self._greeter is None or self._greeter.session(peer) is not None:
            self._transmit(peer, frame)

    def _keep(self) -> None:
        """Greet, send late acknowledgements, and repeat what was not acknowledged."""
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
                greetings = list(self._greeter.due(now)) if self._greeter is not None else []
                signs = self._life.due(now)
                if not late and not lost and not greetings and not signs:
                    self._state.wait(self._next_due() - now)
                    continue
            for peer, greeting in greetings:
                self._greet(peer, greeting)
            for peer in late:
                self._acknowledge(peer)
            for peer, number in signs if self._edges.vouched else ():
                self._tell(peer, Frame(Kind.ALIVE, number, 0, 0, 0, 0, 0, b""))
            for peer, frame in lost:
                self._transmit(peer, frame)

    def _next_due(self) -> float:
        waits = [time.monotonic() + _RESEND_SECONDS_MAX, self._life.next_due]
        waits += [edge.due for edge in self._incoming.values() if edge.due is not None]
        if self._greeter is not None:
            waits.append(self._greeter.next_due())
        waits += [edge.progress + edge.patience for edge in self._outgoing.values() if edge.unacknowledged]
        return min(waits)

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
