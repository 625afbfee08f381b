"""What one peer sends: put into the inbox in its order, as far as there is place, and acknowledged."""

from collections.abc import Callable

from flaremesh.links.buffers import BufferPool
from flaremesh.links.channel import LARGE_BYTES, Channel
from flaremesh.links.edges import Edges
from flaremesh.links.frame import Frame, FrameError, Kind
from flaremesh.links.link import Key, Refusal

_ACK_MESSAGES = 8  # small messages that share an acknowledgement
_TAKEN_MESSAGES = 4  # small messages that the run has taken, of which the peer hears at once


class Inlet:
    """The messages of one peer; whoever uses it holds the lock of the pair's channel.

    Args:
        edges: the site's edges.
        peer: name of the peer.
        owing: called, from any thread, when the peer must be told at once what the run has taken.

    Attributes:
        received: how many messages have arrived.
        is_large: whether the last message was a large one.
        has_been_large: whether any message of this connection was.
        has_no_place: whether the next one waits outside, since the inbox is full.
        refused: why a connection was cut after which no message has come; None where none was.
    """

    def __init__(self, edges: Edges, peer: str, owing: Callable[[], None]):
        self.received = 0
        self.is_large = self.has_been_large = self.has_no_place = False
        self.refused: Refusal | None = None
        self._edges, self._peer, self._owing = edges, peer, owing
        self._is_source = peer in edges.sources
        self._latest = 0  # number of the last message that this connection has brought
        self._taken = self._taken_bytes = 0  # how many of them the run has taken
        self._dropped = 0  # and how many it will never take
        self._told = 0, 0  # how many have arrived and take no room, as the peer knows
        self._told_bytes = 0  # of those that were taken
        self._is_asked = False  # the peer wants to know at once
        self._expecting: Frame | None = None  # header of the message that is being read
        self._memory = memoryview(b"")
        self._pool = BufferPool()
        edges.inbox.on_take(peer, self._took)

    @property
    def is_filling(self) -> bool:
        """Whether a large message is being read."""
        return self._expecting is not None

    @property
    def kept(self) -> int:
        """How many messages have arrived that the run can take, or has taken."""
        return self.received - self._dropped

    @property
    def owes(self) -> bool:
        """Whether the peer must be told at once how much has arrived."""
        new = self.received - self._told[0]
        return self._is_asked or new >= _ACK_MESSAGES or (self.is_large and new > 0) or self._gives_room

    @property
    def _gives_room(self) -> bool:
        """Whether the peer might wait for room that it does not know of."""
        messages = self._taken + self._dropped - self._told[1]
        most = 1 if self._edges.inbox.is_hasty else _TAKEN_MESSAGES
        return messages >= most or self._taken_bytes - self._told_bytes >= LARGE_BYTES

    def ask(self) -> None:
        """The peer wants to know at once."""
        self._is_asked = True

    def acknowledgement(self) -> tuple[int, int]:
        """How many messages have arrived, and how many of them take no room, which the peer is told now."""
        self._told_bytes = self._taken_bytes  # first: what is taken meanwhile must not seem to be told
        self._told, self._is_asked = (self.received, self._taken + self._dropped), False
        return self._told

    def restart(self) -> None:
        """Read from a new connection, whose peer must be told at once how much has arrived."""
        self._expecting, self._latest, self._is_asked = None, 0, True
        self.has_no_place = self.is_large = self.has_been_large = False
        self._memory = memoryview(b"")

    def step(self, channel: Channel) -> Frame | None:
        """Take in one frame; None where none is whole, or there is no place for its message yet.

        Raises:
            FrameError: it is none, or not one that this peer may send.
        """
        frame = self._expecting
        if frame is None:
            frame = channel.frame()
            if frame is None:
                return None
            if frame.kind is not Kind.DATA:
                channel.skip_header()
                return frame
            if not self._admits(frame):
                return None
            channel.skip_header()
            channel.receive_into(self._memory_for(frame))
            self._expecting = frame
        if not channel.has_filled():
            return None
        self._expecting = None
        self._store(frame)
        return frame

    def _admits(self, frame: Frame) -> bool:
        if not self._is_source:
            raise FrameError(Refusal.STRANGER)
        if frame.sequence > self.received + 1:
            raise FrameError(Refusal.MALFORMED)
        # one that has come before is dropped: if it waited for a place, so would what comes behind it
        is_new = frame.sequence > self.received
        refusal = self._edges.refusal(self._peer, frame.length, is_new=is_new)
        self.has_no_place = refusal is Refusal.EARLY
        if refusal is not None and not self.has_no_place:
            raise FrameError(refusal)
        return not self.has_no_place

    def _memory_for(self, frame: Frame) -> memoryview:
        self.is_large = frame.length >= LARGE_BYTES
        self.has_been_large |= self.is_large
        try:
            memory = self._pool.take(frame.length).data if self.is_large else bytearray(frame.length)
        except MemoryError:
            raise FrameError(Refusal.OVERSIZED) from None
        self._memory = memoryview(memory)
        return self._memory

    def _store(self, frame: Frame) -> None:
        """A message is whole."""
        message, self._memory = self._memory, memoryview(b"")
        is_repeated, self._latest = frame.sequence <= self._latest, frame.sequence
        if frame.sequence <= self.received:
            # a peer repeats by another connection what it has not heard to have arrived by the one before
            if is_repeated:
                self._edges.observer.refused(self._peer, Refusal.REPLAYED)
            return
        self.received, self.refused = frame.sequence, None
        if not self._edges.store(Key(frame.iteration, frame.stage, self._peer, frame.part), message):
            self._dropped += 1

    def _took(self, length: int) -> None:
        """The run has taken a message of the peer."""
        self._taken += 1
        self._taken_bytes += length
        if self._gives_room:
            self._owing()
