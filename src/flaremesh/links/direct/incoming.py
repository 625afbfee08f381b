"""The receiving end of a direct edge: reads, acknowledges, and puts messages into the inbox."""

import math
import select
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from flaremesh.links import life
from flaremesh.links.buffers import BufferPool
from flaremesh.links.carrier import Edges
from flaremesh.links.direct.connection import LARGE_BYTES, hang_up, signal, some
from flaremesh.links.frame import HEADER_BYTES, FrameError, Kind, announced, unpack
from flaremesh.links.life import Signs
from flaremesh.links.link import Key, Refusal, condition_after
from flaremesh.topology.links import LinkKind

_MESSAGES = (Kind.DATA, Kind.REPEAT)
_SCRATCH_BYTES = 1 << 16
_ACK_MESSAGES = 8  # small messages that share an acknowledgement
_ROOM_SECONDS = 0.05  # between two looks at an inbox that is full
_PARK_SECONDS = 0.005  # the edge's thread leaves the reading to `attend` for so long after its last call
_ATTENTION_SECONDS = 0.1  # for so long `attend` reads at most
_POLL_SECONDS = 1.0


class Incoming:
    """The edge from one in-neighbour.

    A thread of the edge's own reads its connection, or the thread that waits for messages does; see `attend`.

    Args:
        peer: name of the in-neighbour.
        run: digest of the run.
        edges: the site's edges, this one among them.
    """

    def __init__(self, peer: str, run: bytes, edges: Edges):
        self._peer, self._run, self._edges = peer, run, edges
        self._observer, self._inbox = edges.observer, edges.inbox
        self._pool = BufferPool()
        self._received = 0  # messages
        self._told = 0  # how many of them have been acknowledged
        self._signs = Signs()
        self._due = 0.0  # when to give a sign of life next
        self._state = threading.Condition()
        self._offered: ssl.SSLSocket | None = None  # a new connection that is not read yet
        self._connection: ssl.SSLSocket | None = None  # the one that is read
        self._reading = threading.Lock()  # held by whoever reads
        self._stream: _Stream | None = None
        self._large = False  # whether the last message was a large one
        self._attention = 0.0  # when a thread that waits for messages last came to read
        self._broken: float | None = None  # when the last connection broke; None while there is one
        self._ended = False
        self._refused: Refusal | None = None  # why a connection was cut after which no message came
        self._closed = threading.Event()
        self._orderly = False
        self._thread: threading.Thread | None = None

    @property
    def condition(self) -> str | None:
        """What is known of this edge, in words; None where the peer never dialled in."""
        with self._state:
            if self._thread is None:
                return None
            if self._refused is not None:
                return condition_after(self._refused)
            if self._broken is not None:
                ago = time.monotonic() - self._broken
                return f"its link broke {ago:.0f} s ago: it is gone, or cut off"
            if self._edges.tolerance is not None:  # a live one is not given up, or called a straggler
                return "its link is up, and it gives no sign of life: its process has stopped"
            return "its link is up: it is slow, or waits itself"

    @property
    def heard(self) -> float:
        """When the peer gave a sign of life, unless what it sends is refused, by ``time.monotonic``."""
        return -math.inf if self._refused is not None else self._signs.latest

    @property
    def healing(self) -> float:
        """Until when the peer, if the edge is cut, dials again, by ``time.monotonic``."""
        broken, tolerance = self._broken, self._edges.tolerance
        if broken is None or tolerance is None or self._refused is not None:
            return -math.inf
        return broken + tolerance.redial

    def offer(self, connection: ssl.SSLSocket) -> None:
        """Read from ``connection`` from now on, instead of the one before."""
        with self._state:
            if self._closed.is_set():
                connection.close()
                return
            if self._offered is not None:
                self._offered.close()
            self._offered = connection
            if self._connection is not None:
                hang_up(self._connection)
            if self._thread is None:
                name = f"link-from-{self._peer}"
                self._thread = threading.Thread(target=self._keep, name=name, daemon=True)
                self._thread.start()
            self._state.notify_all()

    def close(self, *, orderly: bool) -> None:
        """Free all resources.

        Args:
            orderly: tell the peer that nothing more is wanted.
        """
        with self._state:
            self._orderly = orderly
            self._closed.set()
            if self._connection is not None:
                hang_up(self._connection, reading=True)
            self._state.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._offered is not None:
            self._offered.close()

    def attend(self, key: Key) -> None:
        """Read in the calling thread until the message ``key`` is there, as long as messages are small.

        Waking the edge's thread to read a small message, and this one to take it, would cost more time.
        """
        stream = self._stream
        if stream is None or self._large:  # large messages are left to the edge's thread
            return
        self._attention = time.monotonic()
        deadline = self._attention + _ATTENTION_SECONDS
        if not self._reading.acquire(blocking=False):
            return
        try:
            while (
                stream is self._stream
                and stream.error is None
                and key not in self._inbox
                and stream.gather(deadline)
                and self._step(stream)
            ):
                pass
        except (OSError, FrameError) as error:
            stream.error = error  # the edge's thread deals with it
        finally:
            self._attention = time.monotonic()
            self._reading.release()

    def _keep(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(lambda: self._offered is not None or self._closed.is_set())
                if self._offered is None or self._closed.is_set():
                    return
                connection, self._offered = self._offered, None
                self._connection, self._broken = connection, None
            self._edges.connected[self._peer] = partial(hang_up, connection)
            try:
                self._serve(_Stream(connection))
            except FrameError as error:
                self._refused = error.reason
                self._observer.refused(self._peer, error.reason)
            except OSError:
                pass
            with self._reading:
                if self._closed.is_set() and self._orderly:
                    with suppress(OSError):
                        connection.sendall(signal(Kind.END, self._run, self._received))
                with self._state:
                    self._stream = self._connection = None
                    self._broken = None if self._ended else time.monotonic()
                    connection.close()
                    if self._offered is None:
                        del self._edges.connected[self._peer]

    def _serve(self, stream: "_Stream") -> None:
        """Take in messages until the connection ends; step aside while a thread attends to them."""
        tolerant = self._edges.tolerance is not None
        with self._reading:
            self._tell(stream)
        self._stream = stream
        # what has no place yet is left unread: this connection may time out, and the peer dial again
        while not self._closed.is_set() and self._offered is None:
            if stream.error is not None:
                raise stream.error
            if tolerant and time.monotonic() >= self._due:
                with self._reading:
                    self._assure(stream)
            if time.monotonic() - self._attention < _PARK_SECONDS:
                self._closed.wait(_PARK_SECONDS)
            else:
                with self._reading:
                    ready = stream.error is None and stream.readable(_POLL_SECONDS)
                    # after close() the end of the stream must not be read: TLS could not send END any more
                    has_place = not ready or self._closed.is_set() or self._step(stream)
                if not has_place:
                    self._closed.wait(_ROOM_SECONDS)

    def _step(self, stream: "_Stream") -> bool:
        """Take in one frame, or leave it where there is no place for it yet; ``_reading`` is held."""
        frame = unpack(stream.header(), self._run)
        if frame.kind not in _MESSAGES:
            if frame.kind is Kind.ALIVE:
                self._signs.take()
                return True
            if frame.kind is not Kind.END:
                raise FrameError(Refusal.MALFORMED)
            self._ended = True
            self._tell(stream)
            return True
        if frame.offset or frame.sequence > self._received + 1:
            raise FrameError(Refusal.MALFORMED)
        refusal = self._edges.refusal(self._peer, frame.total)
        if refusal is Refusal.EARLY:
            stream.unread_header()
            return False
        if refusal is not None:
            raise FrameError(refusal)
        self._large = frame.total >= LARGE_BYTES
        try:
            message = self._pool.take(frame.total).data if self._large else memoryview(bytearray(frame.total))
        except MemoryError:
            raise FrameError(Refusal.OVERSIZED) from None
        stream.read_into(message, self._progressed)
        if frame.sequence <= self._received:
            self._observer.refused(self._peer, Refusal.REPLAYED)
            return True
        self._received, self._refused = frame.sequence, None
        key = Key(frame.iteration, frame.stage, self._peer)
        self._edges.store(LinkKind.DIRECT, key, message, repeat=frame.kind is Kind.REPEAT)
        if self._large or self._received - self._told >= _ACK_MESSAGES:
            self._tell(stream)
        return True

    def _progressed(self, stream: "_Stream") -> None:
        """A part of a large message has come."""
        self._signs.latest = time.monotonic()
        self._assure(stream)

    def _assure(self, stream: "_Stream") -> None:
        """Tell the peer now and then that this site lives; ``_reading`` is held."""
        if (now := time.monotonic()) >= self._due and self._edges.vouched:
            self._due = now + life.SIGN_SECONDS
            self._tell(stream)

    def _tell(self, stream: "_Stream") -> None:
        stream.connection.sendall(signal(Kind.ACK, self._run, self._received))
        self._told = self._received


class _Stream:
    """The bytes that come over one connection; used by one thread at a time.

    Attributes:
        connection: where they come from.
        error: what ended it; None while it goes on.
    """

    def __init__(self, connection: ssl.SSLSocket):
        self.connection = connection
        self.error: OSError | FrameError | None = None
        connection.settimeout(_ATTENTION_SECONDS)
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._start = self._end = 0  # what lies between has been read and not used

    def readable(self, timeout: float) -> bool:
        """Whether bytes, or the end of the connection, come within ``timeout`` seconds."""
        return self._end > self._start or self._more(timeout)

    def gather(self, deadline: float) -> bool:
        """Whether a whole message is there before ``deadline``; False at once if the message is large."""
        while True:
            left, needed = self._end - self._start, HEADER_BYTES
            if left >= HEADER_BYTES:
                total = announced(self._scratch, self._start)
                if total >= LARGE_BYTES:
                    return False
                needed += total
            if left >= needed:
                return True
            patience = deadline - time.monotonic()
            if patience <= 0 or not self._more(patience):
                return False
            try:
                self._fill()
            except TimeoutError:
                return False

    def header(self) -> memoryview:
        """The next bytes, as many as a header has."""
        while self._end - self._start < HEADER_BYTES:
            with suppress(TimeoutError):
                self._fill()
        self._start += HEADER_BYTES
        return self._scratch[self._start - HEADER_BYTES : self._start]

    def unread_header(self) -> None:
        """Let `header` return the same bytes once more."""
        self._start -= HEADER_BYTES

    def read_into(self, message: memoryview, progressed: Callable[["_Stream"], None]) -> None:
        """Fill ``message`` with the bytes that follow; ``progressed`` is called whenever some have come."""
        filled = min(len(message), self._end - self._start)
        message[:filled] = self._scratch[self._start : self._start + filled]
        self._start += filled
        while filled < len(message):
            with suppress(TimeoutError):
                filled += some(self.connection.recv_into(message[filled:]))
                progressed(self)

    def _more(self, timeout: float) -> bool:
        return bool(self.connection.pending() or self._poll.poll(1000 * timeout))

    def _fill(self) -> None:
        left = self._end - self._start
        self._scratch[:left] = self._scratch[self._start : self._end]
        self._start, self._end = 0, left
        self._end += some(self.connection.recv_into(self._scratch[left:]))
