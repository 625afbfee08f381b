"""What two neighbours say to each other: messages, and what each knows of the other, over any connection."""

import math
import threading
import time
from collections.abc import Callable

from flaremesh.links import life
from flaremesh.links.channel import LARGE_BYTES, Channel
from flaremesh.links.edges import Edges, Message
from flaremesh.links.errors import PeerBehind
from flaremesh.links.frame import Frame, FrameError, Kind, pack
from flaremesh.links.inlet import Inlet
from flaremesh.links.life import Signs
from flaremesh.links.link import Refusal
from flaremesh.links.outbox import Outbox

_BATCH = 64  # TLS records that are read before it is looked what there is to write


class Lie(FrameError):
    """The peer says to have got what was never sent, or takes back what it said."""

    def __init__(self) -> None:
        super().__init__(Refusal.MALFORMED)


class Correspondence:
    """This site's end of it.

    Whoever writes to a channel, or reads from it, holds the pair's lock for that.

    Args:
        edges: the site's edges.
        peer: name of the neighbour.
        state: guards what is kept for the peer; whoever waits for it to be acknowledged waits here.
        rouse: called, from any thread, when there is something to write.

    Attributes:
        outbox: what the peer is sent.
        inlet: what it sends.
        heard: when it gave a sign of life, by ``time.monotonic``.
        has_ended: the peer sends no more, and wants no more.
    """

    def __init__(self, edges: Edges, peer: str, state: threading.Condition, rouse: Callable[[], None]):
        self.outbox = Outbox(peer)
        self.inlet = Inlet(edges, peer, rouse)
        self.heard = -math.inf
        self.has_ended = False
        self._edges, self._state, self._rouse = edges, state, rouse
        self._signs = Signs()
        self._due = 0.0  # when to give a sign of life next
        self._is_ending = self._asks = False  # nothing more will be sent; the peer is to acknowledge at once

    def add(self, message: Message) -> None:
        """Keep a message for the peer; the caller holds ``state``. Raises PeerBehind where too much waits."""
        try:
            self.outbox.add(message)
        except PeerBehind:
            self.ask()  # what has arrived makes room, once it is acknowledged
            raise

    def ask(self) -> None:
        """Have the peer acknowledge at once what it has got."""
        self._asks = True
        self._rouse()

    def end(self) -> None:
        """Nothing more will be sent: ask over each connection from now on."""
        self._is_ending = True
        self.ask()

    def restart(self, arrived: int) -> None:
        """Go on over a new connection, whose other end has got so many messages; the caller holds ``state``.

        Raises:
            FrameError: it cannot have got so many.
        """
        self.outbox.restart(arrived)
        self.inlet.restart()
        self._asks = self._is_ending

    def is_due(self, now: float) -> bool:
        """Whether there is something to write at the time ``now``."""
        return now >= self._due or self.inlet.owes or self._asks or not self.outbox.is_written

    def pause(self, now: float) -> float:
        """Seconds until a sign of life is due."""
        return max(0.0, self._due - now)

    # what goes out

    def write(self, channel: Channel, now: float) -> bool:
        """Write what there is to say, as far as there is room at both ends; returns whether any went out."""
        if now >= self._due:
            self._due = now + life.SIGN_SECONDS
            if self._edges.vouched:
                channel.put(self.signal(Kind.ALIVE))
        if self._asks and self.outbox.is_written:
            self._asks = False
            channel.put(self.signal(Kind.FLUSH))
        if self.inlet.owes and not channel.is_full:
            channel.put(self.signal(Kind.ACK))
        return self.write_messages(channel)

    def write_messages(self, channel: Channel) -> bool:
        """Write all messages that this connection has not carried yet, as far as there is room."""
        moved = channel.write()
        while not channel.is_full:
            with self._state:
                due = self.outbox.take_next()
            if due is None:
                break
            key, buffers, length = due.message
            told = self.inlet.acknowledgement()
            header = pack(Frame(Kind.DATA, due.sequence, *told, key.iteration, key.stage, length))
            if length < LARGE_BYTES:
                channel.put(b"".join((header, *buffers)))
            else:
                channel.put(header, *buffers)
            moved |= channel.write()
        return moved

    def signal(self, kind: Kind) -> bytes:
        """The bytes of a frame without a message."""
        return pack(Frame(kind, 0, *self.inlet.acknowledgement()))

    # what comes in

    def read(self, channel: Channel) -> bool:
        """Take in what has come, some records at most; returns whether anything did."""
        moved = False
        for _ in range(_BATCH):
            while self.step(channel):
                moved = True
            if self.inlet.has_no_place or not self.fill(channel):
                break
            moved = True
        return moved

    def fill(self, channel: Channel) -> bool:
        """Read once; returns whether bytes were there."""
        if not channel.fill():
            return False
        if self.inlet.is_filling:  # no sign comes before the message is whole
            self.heard = time.monotonic()
        return True

    def step(self, channel: Channel) -> bool:
        """Take in one frame; returns False where none is whole, or there is no place for it yet.

        Raises:
            FrameError: it is none, or not one that the peer may send.
            Lie: it says what cannot be.
        """
        frame = self.inlet.step(channel)
        if frame is None:
            return False
        self._learn(frame)
        if frame.kind is Kind.DATA:
            self.heard = time.monotonic()
        elif frame.kind is Kind.ALIVE:
            self._signs.take()
            self.heard = time.monotonic()
        elif frame.kind is Kind.FLUSH:
            self.inlet.ask()
        elif frame.kind is Kind.END:
            with self._state:
                self.has_ended = True
                self._state.notify_all()
        return True

    def _learn(self, frame: Frame) -> None:
        """What the peer tells of this end's messages."""
        with self._state:
            try:
                is_news = self.outbox.learn(frame.acknowledged, frame.taken)
            except FrameError:
                raise Lie from None
            if is_news:
                self._state.notify_all()
                if not self.outbox.is_written:
                    self._rouse()
