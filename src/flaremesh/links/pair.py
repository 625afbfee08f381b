"""What a site shares with one neighbour: messages both ways, over one connection after another.

Messages are numbered in each direction, whatever carries them. Each end keeps what the other one has not
acknowledged, and a new connection goes on after what the two ends say has arrived: nothing is lost, and
nothing arrives twice. Acknowledgements ride on messages where there are any.

An end writes no more than what the other one's inbox has room for, since acknowledgements must never wait
behind messages that nobody takes.
"""

import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from flaremesh.links import life
from flaremesh.links.channel import LARGE_BYTES, Channel
from flaremesh.links.correspondence import Correspondence, Lie
from flaremesh.links.edges import Edges, Message
from flaremesh.links.errors import LinkError, LinkRefused
from flaremesh.links.frame import FrameError, Greeting, Kind, Word, pack_greeting, run_digest
from flaremesh.links.link import Cancelled, Key, condition_after
from flaremesh.topology.links import LinkKind

_ROOM_SECONDS = 0.05  # between two looks at an inbox that is full
_PARK_SECONDS = 0.005  # the pair's thread leaves the reading to `attend` for so long after its last call
_PARK_SECONDS_SMALL = 0.05  # where no message is large: each look of that thread holds up an iteration
_ATTENTION_SECONDS = 0.1  # for so long `attend` reads at most
_POLL_SECONDS = 0.2  # how soon an abort is noticed
_DRAIN_SECONDS = 1.0  # for the peer to read that this end has ended


class Pair:
    """This site's end.

    ``_state`` guards numbers and messages, and is held for moments; ``_io`` guards the channel, which OpenSSL
    does not let two threads use. Who takes both takes ``_io`` first.

    Args:
        edges: the site's edges.
        peer: name of the neighbour.
        carriers: by which connections with it may travel.

    Attributes:
        peer, carriers: the same.
        leads: whether this end decides which connection counts: the one with the lesser name does.
        broken: when the last connection broke, by ``time.monotonic``; None while there is one, or none yet.
        was_hung_up: whether the other end ended the connection that broke last; a cut one ends in silence.
    """

    def __init__(self, edges: Edges, peer: str, carriers: Collection[LinkKind] = tuple(LinkKind)):
        self.peer, self.carriers = peer, carriers
        self.leads = edges.site < peer
        self.broken: float | None = None
        self.was_hung_up = False
        self._edges, self._inbox = edges, edges.inbox
        self._changed: Callable[[], None] = lambda: None
        self._state = threading.Condition()
        self._io = threading.Lock()
        self._channel: Channel | None = None
        self._replaced: list[Channel] = []  # that another one has taken the place of
        self._kind: LinkKind | None = None  # of the last channel
        self._number = 0  # of it, as the end that leads counts
        self._said = Correspondence(edges, peer, self._state, self._rouse)
        self._attended = False  # whether the run's thread writes and reads
        self._attention = 0.0  # when it last did
        # the end
        self._failure: LinkError | None = None  # why there will be no connection any more
        self._stopping = self._orderly = False
        self._roused = False  # the pair's thread is told to look what there is to do
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)
        self._thread = threading.Thread(target=self._keep, name=f"link-{peer}", daemon=True)
        self._thread.start()

    # what is known of it

    @property
    def received(self) -> int:
        """How many messages of the peer have arrived."""
        return self._said.inlet.received

    @property
    def kind(self) -> LinkKind | None:
        """What carries messages now; None where nothing does."""
        channel = self._channel
        return None if channel is None else channel.kind

    @property
    def latest(self) -> LinkKind | None:
        """What carries messages now, or carried them last; None where nothing ever did."""
        return self._kind

    @property
    def failure(self) -> LinkError | None:
        """Why there will be no connection any more."""
        return self._failure

    @property
    def is_over(self) -> bool:
        """Whether no connection is needed any more."""
        return self._stopping or self._said.has_ended or self._failure is not None

    @property
    def heard(self) -> float:
        """When the peer gave a sign of life, unless what it sends is refused, by ``time.monotonic``."""
        return -math.inf if self._said.inlet.refused is not None else self._said.heard

    @property
    def is_refused(self) -> bool:
        """Whether what the peer sent over the last connection was refused."""
        return self._said.inlet.refused is not None

    @property
    def is_silent(self) -> bool:
        """Whether signs of life are due over the connection, and stay away."""
        waits = self._edges.tolerance is not None and self._channel is not None
        return waits and time.monotonic() > self._said.heard + life.SILENT_SECONDS

    @property
    def healing(self) -> float:
        """Until when the pair, if it is cut, is waited for, by ``time.monotonic``."""
        tolerance = self._edges.tolerance
        if tolerance is None or self._said.inlet.refused is not None or self.is_over:
            return -math.inf
        if self.broken is not None:
            return self.broken + tolerance.redial
        # where others forward, silence may mean that one of the two does not reach them
        is_cut = self.kind in (LinkKind.MET, LinkKind.RELAY) and self.is_silent
        return self._said.heard + tolerance.redial if is_cut else -math.inf

    @property
    def condition(self) -> str | None:
        """What is known of the connection, in words; None where there never was one."""
        with self._state:
            if self._said.inlet.refused is not None:
                return condition_after(self._said.inlet.refused)
            if self.broken is not None:
                return f"its link broke {time.monotonic() - self.broken:.0f} s ago: it is gone, or cut off"
            if self._channel is None:
                return None
            if self._edges.tolerance is not None:  # a live one is not given up, or called a straggler
                return "its link is up, and it gives no sign of life: its process has stopped"
            return "its link is up: it is slow, or waits itself"

    def tell(self) -> None:
        """Say again how messages travel: a neighbour may have dialled before it was known what is wanted."""
        with self._state:
            if self._kind is not None:
                self._edges.tell(self.peer, self._kind, self._kind)

    def on_change(self, call: Callable[[], None]) -> None:
        """Call ``call`` whenever there is a connection, or none any more."""
        self._changed = call

    # messages

    def send(self, message: Message) -> None:
        """Take on a message and return at once.

        Raises:
            LinkError: there will be no connection any more.
            PeerBehind: too much waits for the peer already.
        """
        with self._state:
            if self._failure is not None:
                raise self._failure
            if self._said.has_ended:
                return
            self._said.add(message)
        # waking the thread would cost a small message more than sending it
        if message.length >= LARGE_BYTES or not self._io.acquire(blocking=False):
            self._rouse()
            return
        try:
            channel = self._channel
            if channel is not None and channel.error is None:  # else it is written to the next one
                self._write_at_once(channel)
        finally:
            self._io.release()

    @property
    def lag(self) -> int:
        """How many messages the peer's run has not taken."""
        with self._state:
            return self._said.outbox.lag

    def _write_at_once(self, channel: Channel) -> None:
        try:
            self._said.write_messages(channel)
        except OSError as error:
            self._fail(channel, error)
        if channel.is_full:
            self._rouse()

    def attend(self, key: Key, *, alone: bool = False) -> None:
        """Write and read in the calling thread until the message ``key`` is there, for a moment at most.

        Waking the pair's thread to read a small message, and this one to take it, would cost more time, and
        a large one is in the cache of the core that goes on with it.

        Args:
            key: of a message of the peer.
            alone: whether nothing else is waited for. Else large messages are left to the pair's thread, so
                that those of several neighbours come at once.
        """
        channel = self._channel
        if channel is None or (not alone and (self._said.inlet.is_large or channel.is_full)):
            return
        self._attended = True  # the pair's thread leaves everything to this one
        if not self._io.acquire(timeout=_PARK_SECONDS):
            self._attended = False
            return
        deadline = time.monotonic() + _ATTENTION_SECONDS
        try:
            while channel is self._channel and channel.error is None and key not in self._inbox:
                if self._said.rests:
                    return
                if self._said.step(channel):
                    continue
                now = time.monotonic()
                # also where what comes never ends
                if self._said.inlet.has_no_place or now >= deadline:
                    return
                if self._said.inlet.is_large and not alone:
                    return
                if channel.is_full or self._said.is_due(now):
                    self._said.write(channel, now)
                if not channel.is_ready(deadline - now):
                    return
                self._said.fill(channel)
        except (OSError, FrameError) as error:
            self._fail(channel, error)  # the pair's thread deals with it
        finally:
            self._attention = time.monotonic()
            self._attended = False
            self._io.release()
        if self._said.is_due(self._attention) or channel.is_full:
            self._rouse()

    # connections

    def adopt(self, connection: socket.socket, kind: LinkKind, heard: Greeting) -> None:
        """Go on over a connection, instead of the one before, or close it where that one is to stay.

        Args:
            connection: on which the peer has said that it is ready, or the peer, if it leads, that it counts.
            kind: what carries it.
            heard: what the peer has said.

        Raises:
            FrameError: the peer says to have got what was never sent.
        """
        with self._state:
            is_cut = self._channel is None
            if self._takes(kind, heard):
                # a lie must not cost the connection that there is
                self._said.outbox.require_written(heard.received)
                if self._channel is not None:
                    self._channel.hang_up()  # who uses it now stops
        with self._io, self._state:
            if not self._takes(kind, heard):
                connection.close()
                return
            if self._channel is not None:
                self._replaced.append(self._channel)
            self._said.restart(heard.received)
            channel = Channel(connection, kind)
            self._number = self._number + 1 if self.leads else heard.number
            if self.leads:
                adopted = Greeting(Word.ADOPT, self.received, self._number)
                channel.put(pack_greeting(adopted, run_digest(self._edges.run_id)))
            self._channel, self.broken = channel, None
            if is_cut:  # beside a connection that there is, a new one says nothing about the peer's run
                self._said.give_time()
            before, self._kind = self._kind, kind
            self._edges.tell(self.peer, before, kind)
            self._state.notify_all()
        self._rouse()
        self._changed()

    def _takes(self, kind: LinkKind, heard: Greeting) -> bool:
        """Whether to go on over a new connection; whoever carries one decides when its greetings arrive."""
        if self.is_over:
            return False
        if not self.leads:
            return heard.number > self._number
        channel = self._channel
        if channel is None or channel.error is not None or self.is_silent:
            return True
        return kind.rank <= channel.kind.rank

    def give_up(self, error: LinkError) -> None:
        """Make no connection any more: what needs one fails with ``error``."""
        with self._state:
            if self.is_over:
                return
            self._failure = error
            self._state.notify_all()
        self._inbox.fail(error)
        self._changed()

    # the end

    def flush(self, deadline: float, cancelled: Cancelled) -> None:
        """Wait until all messages are acknowledged, until ``deadline``, or until ``cancelled``."""
        self._said.end()
        self._attention = -math.inf  # from now on the pair's thread reads
        self._rouse()
        with self._state:
            while not self._said.outbox.is_empty and not self.is_over and not cancelled():
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return
                self._state.wait(min(remaining, _POLL_SECONDS))

    def stop(self, *, orderly: bool) -> None:
        """End the connection, make no other, and do not wait for anything.

        Args:
            orderly: tell the peer that nothing more is sent, or wanted.
        """
        with self._state:
            self._stopping, self._orderly = True, orderly
            self._state.notify_all()
        channel = self._channel
        if channel is not None and not orderly:
            channel.hang_up()
        self._rouse()

    def close(self) -> None:
        """Free all resources, after `stop`."""
        self._thread.join()
        self._wake.close()
        self._woken.close()

    # the pair's thread

    def _rouse(self) -> None:
        if self._roused:  # and has not looked yet
            return
        self._roused = True
        with suppress(OSError):  # full, or closed
            self._wake.send(b"x")

    def _fail(self, channel: Channel, error: Exception) -> None:
        channel.error = channel.error or error
        self._rouse()

    def _keep(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(lambda: self._channel is not None or self._stopping)
                channel = self._channel
                replaced, self._replaced = self._replaced, []
            for each in replaced:
                each.close()
            if channel is None:
                return
            error: Exception | None = None
            try:
                self._serve(channel)
            except Lie as caught:
                error = caught
                lie = f"{self._edges.site} has no link to {self.peer}: it acknowledges what was never sent"
                self.give_up(LinkRefused(f"{lie} ({caught.reason})"))
            except (OSError, FrameError) as caught:
                error = caught
            self._part(channel, error)

    def _serve(self, channel: Channel) -> None:
        """Write and read until the channel is not used any more; step aside while the run's thread reads."""
        while self._channel is channel and not self._stopping and not self._said.has_ended:
            if channel.error is not None:
                raise channel.error
            if self._said.inlet.has_no_place:
                channel.require_peer()
            now = time.monotonic()
            park = _PARK_SECONDS if self._said.inlet.has_been_large else _PARK_SECONDS_SMALL
            is_parked = self._attended or now - self._attention < park
            moved = False
            if not self._attended and (not is_parked or channel.is_full or self._said.is_due(now)):
                with self._io:
                    moved = self._said.write(channel, now)
                    moved |= not is_parked and self._said.read(channel)
            if moved:
                continue
            if is_parked:
                channel.wait(self._woken, park, reading=False, writing=not self._attended)
            else:
                is_deaf = self._said.inlet.has_no_place or self._said.rests
                seconds = _ROOM_SECONDS if is_deaf else self._said.pause(now)
                channel.wait(self._woken, seconds, reading=not is_deaf)
            with suppress(BlockingIOError):
                self._woken.recv(4096)
            self._roused = False  # before anything is looked at

    def _part(self, channel: Channel, error: Exception | None) -> None:
        """Nobody uses the channel any more."""
        with self._io:
            if self._orderly and error is None and not self._said.has_ended:
                channel.put(self._said.signal(Kind.END))
                channel.drain(_DRAIN_SECONDS)
            channel.close()
            with self._state:
                if self._channel is not channel:
                    return
                self.broken = None if self.is_over else time.monotonic()
                self.was_hung_up = isinstance(error, ConnectionError | ssl.SSLEOFError)
                self._channel = None
                if isinstance(error, FrameError):
                    self._said.inlet.refused = error.reason
                self._state.notify_all()
        if isinstance(error, FrameError):
            self._edges.observer.refused(self.peer, error.reason)
        self._changed()
