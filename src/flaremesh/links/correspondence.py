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

_BATCH_BYTES = 1 << 20  # that are read before it is looked what there is to write
_IDLE_FRAMES = 64  # that tell nothing and are taken in at once
_IDLE_SECONDS = 0.05  # for which a peer is not read that has sent so many


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
        self._has_time = False  # it was given time for a sign, and has given none since
        self._edges, self._state, self._rouse = edges, state, rouse
        self._signs = Signs()
        self._due = 0.0  # when to give a sign of life next
        self._idle = 0  # frames of the peer that told nothing
        self._kept = 0  # messages of it, as the last of these came
        self._unread = 0.0  # until when nothing more of it is taken in
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
        self._due = 0.0  # nothing else says that this site's run goes on

    def give_time(self) -> None:
        """Take a new connection after a cut for a sign of life, once until one comes.

        Else whoever makes connections and breaks them would keep a peer alive whose run has ended.
        """
        if not self._has_time:
            self.heard, self._has_time = time.monotonic(), True

    def _hear(self) -> None:
        self.heard, self._has_time = time.monotonic(), False

    def is_due(self, now: float) -> bool:
        """Whether there is something to write at the time ``now``."""
        return now >= self._due or self.inlet.owes or self._asks or not self.outbox.is_written

    @property
    def rests(self) -> bool:
        """Whether the peer, which says much and tells nothing, must wait before more is taken in.

        So it takes up little of this site's time, and what it is waited for comes all the same.
        """
        return time.monotonic() < self._unread

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
            (iteration, stage, _, part), buffers, length = due.message
            told = self.inlet.acknowledgement()
            header = pack(Frame(Kind.DATA, due.sequence, *told, iteration, stage, length, part))
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
        moved, left = False, _BATCH_BYTES
        while left > 0:
            while not self.rests and self.step(channel):
                moved = True
            if self.rests or self.inlet.has_no_place or not (count := self.fill(channel)):
                break
            moved, left = True, left - count
        return moved

    def fill(self, channel: Channel) -> int:
        """As Channel.fill."""
        count = channel.fill()
        if count and self.inlet.is_filling:  # no sign comes before the message is whole
            self._hear()
        return count

    def step(self, channel: Channel) -> bool:
        """Take in one frame; returns False where none is whole, or there is no place for it yet.

        Raises:
            FrameError: it is none, or not one that the peer may send.
            Lie: it says what cannot be.
        """
        frame = self.inlet.step(channel)
        if frame is None:
            return False
        if not self._learn(frame) and self.inlet.kept == self._kept:
            self._tire()
        self._kept = self.inlet.kept
        if frame.kind is Kind.DATA:
            self._hear()
        elif frame.kind is Kind.ALIVE:
            self._signs.take()
            self._hear()
        elif frame.kind is Kind.FLUSH:
            self.inlet.ask()
        elif frame.kind is Kind.END:
            with self._state:
                self.has_ended = True
                self._state.notify_all()
        return True

    def _tire(self) -> None:
        """The peer has told nothing."""
        self._idle += 1
        if self._idle >= _IDLE_FRAMES:
            self._idle, self._unread = 0, time.monotonic() + _IDLE_SECONDS

    def _learn(self, frame: Frame) -> bool:
        """What the peer tells of this end's messages; returns whether it is news."""
        with self._state:
            try:
                is_news = self.outbox.learn(frame.acknowledged, frame.taken)
            except FrameError:
                raise Lie from None
            if is_news:
                self._state.notify_all()
                if not self.outbox.is_written:
                    self._rouse()
            return is_news
