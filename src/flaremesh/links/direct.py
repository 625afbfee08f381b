"""Links from site to site: blocking TLS sockets, one connection per directed edge, dialled by the sender.

An edge numbers its messages. The receiver acknowledges them now and then on the same connection, the sender
keeps what is unacknowledged, and a new connection goes on where the receiver says that the last one ended.
"""

import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeAlias

from flaremesh.links.buffers import BufferPool
from flaremesh.links.frame import HEADER_BYTES, Frame, FrameError, Kind, announced, pack, run_digest, unpack
from flaremesh.links.inbox import Inbox
from flaremesh.links.listener import Listener, tune
from flaremesh.links.protocol import Key, LinkError, LinkObserver, Payload
from flaremesh.links.tls import Credentials, peer_name

_LARGE_BYTES = 1 << 15  # from here on a message is sent by the edge's thread and received into the pool
_SCRATCH_BYTES = 1 << 16
_ACK_MESSAGES = 8  # a small message waits for an acknowledgement no longer than for so many others
_EARLY_MESSAGES = 256  # of one peer, that no iteration has asked for yet; then its connection is left to fill
_ROOM_SECONDS = 0.05  # how often room is looked for then
_PARK_SECONDS = 0.005  # for so long an edge's thread leaves the reading to the one that waits
_ATTENTION_SECONDS = 0.1  # which leaves it to the edge's thread again when so long nothing came
_POLL_SECONDS = 1.0
_DIAL_SECONDS = 5.0  # for one attempt, and for all attempts to make a link or to make it again
_BACKOFF_SECONDS = 0.05  # after the first failed attempt; doubles
_FLUSH_SECONDS = 5.0

Address: TypeAlias = tuple[str, int]
"""Host and port."""

Unsent: TypeAlias = list[tuple[Key, Sequence[Payload]]]
"""Messages that a peer has not acknowledged, oldest first."""

Lost: TypeAlias = Callable[[str, str, Unsent], None]
"""(peer, cause, unsent) of an edge that broke and could not be made again."""


class LinkRefused(LinkError):
    """One end of a link does not accept who the other one is."""


class _Message(NamedTuple):
    sequence: int
    key: Key
    buffers: Sequence[Payload]
    length: int


class DirectLink:
    """One site's end of all its direct edges.

    Args:
        site: name of this site.
        run_id: the run; connections of other runs are refused.
        sources: in-neighbours, who may dial in.
        credentials: of this site.
        observer: hears of traffic and refusals.
        inbox: where messages are put.
        lost: called once for each edge that is lost after it was made.
        listen: host and inclusive range of ports for in-neighbours to dial; None if they cannot.
        max_message_bytes: a peer that announces more is cut off.

    Raises:
        LinkError: no port is free, or the certificate cannot be used.
    """

    def __init__(
        self,
        site: str,
        run_id: str,
        sources: Collection[str],
        credentials: Credentials,
        observer: LinkObserver,
        inbox: Inbox,
        lost: Lost,
        listen: tuple[str, tuple[int, int]] | None,
        max_message_bytes: int = 4 << 30,
    ):
        self._site = site
        self._run = run_digest(run_id)
        self._credentials = credentials
        self._observer = observer
        self._inbox = inbox
        self._lost = lost
        self._outgoing: dict[str, _Outgoing] = {}
        self._incoming = {
            peer: _Incoming(peer, self._run, observer, inbox, max_message_bytes) for peer in sources
        }
        self._listener = listen and Listener(*listen, credentials, self._run, self._welcome, observer.refused)
        self.address: Address | None = (listen[0], self._listener.port) if listen and self._listener else None

    def dial(self, addresses: Mapping[str, Address]) -> dict[str, str]:
        """Make a link to each peer; returns those that could not be reached, and why.

        Raises LinkRefused if the wrong one answered, or if the peer does not accept this site.
        """
        context = self._credentials.dialling()
        self._outgoing = {
            peer: _Outgoing(self._site, peer, address, self._run, context, self._lost, self._inbox.fail)
            for peer, address in addresses.items()
        }
        causes = {peer: edge.wait() for peer, edge in self._outgoing.items()}
        return {peer: cause for peer, cause in causes.items() if cause is not None}

    def send(self, peer: str, key: Key, buffers: Sequence[Payload]) -> bool:
        """See Link.send; False if there is no link to ``peer`` any more."""
        edge = self._outgoing.get(peer)
        length = sum(len(buffer) for buffer in buffers)
        if edge is None or not edge.send(key, buffers, length):
            return False
        self._observer.sent(peer, length)
        return True

    def attend(self, keys: Collection[Key]) -> None:
        """To be called by a thread before it waits for ``keys``; it may be quicker than the edges' own."""
        for key in keys:
            if key.sender in self._incoming:
                self._incoming[key.sender].attend(key)

    def condition(self, peer: str) -> str | None:
        """What is known of the link from an in-neighbour, in words; None where it never dialled in."""
        return self._incoming[peer].condition if peer in self._incoming else None

    def close(self, *, deliver: bool = True) -> None:
        """See Link.close."""
        if deliver:
            deadline = time.monotonic() + _FLUSH_SECONDS
            for outgoing in self._outgoing.values():
                outgoing.flush(deadline)
        if self._listener is not None:
            self._listener.close()
        for outgoing in self._outgoing.values():
            outgoing.stop()
        for outgoing in self._outgoing.values():
            outgoing.close()
        for incoming in self._incoming.values():
            incoming.close(orderly=deliver)

    def _welcome(self, name: str, connection: ssl.SSLSocket) -> bool:
        edge = self._incoming.get(name)
        if edge is None:
            return False
        edge.offer(connection)
        return True


class _Outgoing:
    """The edge to one out-neighbour.

    ``_state`` guards the messages and is held for moments; ``_io`` guards the connection, which OpenSSL does
    not let two threads use, and is held while something is written.
    """

    def __init__(
        self,
        site: str,
        peer: str,
        address: Address,
        run: bytes,
        context: ssl.SSLContext,
        lost: Lost,
        fail: Callable[[LinkError], None],
    ):
        self._site, self._peer, self._address, self._run = site, peer, address, run
        self._context, self._lost, self._fail = context, lost, fail
        self._state = threading.Condition()
        self._io = threading.Lock()
        self._messages: deque[_Message] = deque()  # that are not acknowledged
        self._sequence = 0  # of the latest message
        self._next = 1  # the message to be written next
        self._connection: ssl.SSLSocket | None = None
        self._acknowledgements = bytearray()
        self._tried = False
        self._gone: str | None = None  # why there will be no connection any more
        self._refused: LinkRefused | None = None
        self._ending = False  # nothing more will be sent
        self._done = False  # the peer wants no more
        self._closed = threading.Event()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._thread = threading.Thread(target=self._keep, name=f"link-to-{peer}", daemon=True)
        self._thread.start()

    def wait(self) -> str | None:
        """Wait for the first connection; returns why there is none."""
        with self._state:
            self._state.wait_for(lambda: self._tried)
        if self._refused is not None:
            raise self._refused
        return self._gone

    def send(self, key: Key, buffers: Sequence[Payload], length: int) -> bool:
        with self._state:
            if self._gone is not None:
                return False
            self._sequence += 1
            self._messages.append(_Message(self._sequence, key, buffers, length))
        # waking the thread would cost a small message more than sending it
        if length < _LARGE_BYTES and self._io.acquire(blocking=False):
            try:
                if self._connection is not None:  # else the thread writes it to the next one
                    self._write(self._connection)
            except OSError:
                self._hang_up()  # which the thread notices
            finally:
                self._io.release()
        else:
            self._rouse()
        return True

    def flush(self, deadline: float) -> None:
        """Wait until all messages are acknowledged, or until ``deadline``."""
        self._ending = True
        self._rouse()
        with self._state:
            self._state.wait_for(
                lambda: not self._messages or self._gone is not None or self._done,
                max(0.0, deadline - time.monotonic()),
            )

    def stop(self) -> None:
        """End the connection and make no other; does not wait."""
        self._closed.set()
        self._rouse()
        self._hang_up()

    def close(self) -> None:
        """Free all resources, after `stop`; waits for an attempt to connect that is under way."""
        self._thread.join()
        self._wake.close()
        self._woken.close()

    def _hang_up(self) -> None:
        connection = self._connection
        if connection is not None:
            hang_up(connection)

    def _rouse(self) -> None:
        with suppress(OSError):  # full, or closed
            self._wake.send(b"x")

    def _keep(self) -> None:
        """Connect, serve, and connect again, until closed or given up."""
        while not self._closed.is_set() and not self._done:
            try:
                connection = self._reconnect()
            except LinkRefused as error:
                self._refused = error
                self._give_up(str(error))
                return
            except OSError as error:
                self._give_up(_cause(error))
                return
            if connection is None:
                return
            cause = None
            try:
                self._serve(connection)
            except FrameError as error:
                cause = error
            except OSError:
                pass
            with self._io:
                self._connection = None
                connection.close()
            if cause is not None:
                self._refused = LinkRefused(self._blame(_cause(cause)))
                self._give_up(str(self._refused))
                return
            self._closed.wait(_BACKOFF_SECONDS)  # a peer that always hangs up must not keep us busy

    def _reconnect(self) -> ssl.SSLSocket | None:
        """Dial until there is a connection; raises the last attempt's error when the time is over."""
        deadline, pause = time.monotonic() + _DIAL_SECONDS, _BACKOFF_SECONDS
        while True:
            try:
                connection, arrived = self._dial(max(0.1, deadline - time.monotonic()))
                break
            except OSError:
                if time.monotonic() + pause > deadline:
                    raise
            if self._closed.wait(pause):
                return None
            pause *= 2
        with self._io, self._state:
            try:
                self._settle(arrived)
            except FrameError as error:
                connection.close()
                raise LinkRefused(self._blame(_cause(error))) from error
            self._next = arrived + 1
            self._acknowledgements.clear()
            self._connection = connection
            self._tried = True
            self._state.notify_all()
        return connection

    def _dial(self, timeout: float) -> tuple[ssl.SSLSocket, int]:
        """Connect once; returns the connection and how many messages the peer has got."""
        deadline = time.monotonic() + timeout
        try:
            connection = socket.create_connection(self._address, timeout)
        except (ValueError, OverflowError) as error:  # the address is what the peer says
            raise OSError(f"that is no address ({error})") from error
        try:
            tune(connection)
            connection = secure = self._context.wrap_socket(connection)
            if (name := peer_name(secure)) != self._peer:
                raise LinkRefused(self._blame(f"{name or 'somebody without a name'} answers there"))
            secure.sendall(pack(_signal(Kind.HELLO), self._run))
            arrived = self._read_answer(secure, deadline)
            secure.settimeout(None)
        except BaseException as error:
            connection.close()
            # an end of the connection may be an accident, an answer that does not fit is none
            accident = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
            if isinstance(error, ssl.SSLError | FrameError) and not accident:
                raise LinkRefused(self._blame(_cause(error))) from error
            raise
        return secure, arrived

    def _read_answer(self, connection: ssl.SSLSocket, deadline: float) -> int:
        frame = unpack(_read_exactly(connection, HEADER_BYTES, deadline), self._run)
        if frame.kind is Kind.REFUSED:
            reason = bytes(_read_exactly(connection, min(frame.total, 64), deadline))
            raise LinkRefused(
                self._blame(f"it refuses this site: {ascii(reason.decode(errors='replace'))[1:-1]}")
            )
        if frame.kind is not Kind.ACK:
            raise FrameError("malformed")
        return frame.acknowledged

    def _blame(self, cause: str) -> str:
        host, port = self._address
        return (
            f"{self._site} has no link to {self._peer} at {host}:{port}: {cause}. "
            "Certificates, addresses and edges must come from one provisioning"
        )

    def _serve(self, connection: ssl.SSLSocket) -> None:
        """Write what is there to write and take acknowledgements, until closed.

        Raises OSError when the connection breaks, FrameError for what is no acknowledgement.
        """
        ended = False
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while not self._closed.is_set() and not self._done:
            with self._io:
                self._write(connection)
                if self._ending and self._messages and not ended:
                    ended = True
                    connection.sendall(pack(_signal(Kind.END), self._run))
            for descriptor, _ in poll.poll():
                if descriptor == self._woken.fileno():
                    self._woken.recv(4096)
                else:
                    with self._io:
                        self._read_acknowledgements(connection)

    def _write(self, connection: ssl.SSLSocket) -> None:
        """Write all messages that this connection has not carried yet; ``_io`` is held."""
        while True:
            with self._state:
                if not self._messages or self._next > self._sequence:
                    return
                message = self._messages[self._next - self._messages[0].sequence]
                self._next += 1
            key, total = message.key, message.length
            header = pack(
                Frame(Kind.DATA, message.sequence, 0, key.iteration, key.stage, 0, total, b""), self._run
            )
            if total < _LARGE_BYTES:
                connection.sendall(b"".join((header, *message.buffers)))
            else:
                connection.sendall(header)
                for buffer in message.buffers:
                    connection.sendall(buffer)

    def _read_acknowledgements(self, connection: ssl.SSLSocket) -> None:
        while True:
            data = connection.recv(4096)
            if not data:
                raise ConnectionError("the peer hung up")
            self._acknowledgements += data
            if not connection.pending():
                break
        while len(self._acknowledgements) >= HEADER_BYTES:
            frame = unpack(bytes(self._acknowledgements[:HEADER_BYTES]), self._run)
            del self._acknowledgements[:HEADER_BYTES]
            if frame.kind not in (Kind.ACK, Kind.END):
                raise FrameError("malformed")
            with self._state:
                self._settle(frame.acknowledged)
                self._done = self._done or frame.kind is Kind.END

    def _settle(self, arrived: int) -> None:
        """Forget what the peer has got; ``_state`` is held."""
        settled = self._sequence - len(self._messages)
        if not settled <= arrived < self._next:  # or it would choose what is written next
            raise FrameError("malformed")
        while self._messages and self._messages[0].sequence <= arrived:
            self._messages.popleft()
        self._state.notify_all()

    def _give_up(self, cause: str) -> None:
        with self._state:
            self._gone = cause
            unsent: Unsent = [(message.key, message.buffers) for message in self._messages]
            self._messages.clear()
            first, self._tried = not self._tried, True
            self._state.notify_all()
        if first or self._closed.is_set():
            return
        if self._refused is not None:
            self._fail(self._refused)
        else:
            self._lost(self._peer, cause, unsent)


class _Incoming:
    """The edge from one in-neighbour."""

    def __init__(self, peer: str, run: bytes, observer: LinkObserver, inbox: Inbox, max_message_bytes: int):
        self._peer, self._run, self._observer, self._inbox = peer, run, observer, inbox
        self._max_message_bytes = max_message_bytes
        self._pool = BufferPool()
        self._received = 0
        self._told = 0  # what the peer has been told of that
        self._state = threading.Condition()
        self._offered: ssl.SSLSocket | None = None
        self._connection: ssl.SSLSocket | None = None
        self._reading = threading.Lock()  # held by whoever reads
        self._stream: _Stream | None = None
        self._large = False  # the last message was
        self._attention = 0.0  # when somebody last came to read
        self._broken: float | None = None
        self._ended = False
        self._closed = threading.Event()
        self._orderly = False
        self._thread: threading.Thread | None = None

    @property
    def condition(self) -> str | None:
        """See DirectLink.condition."""
        with self._state:
            if self._thread is None:
                return None
            if self._broken is not None:
                ago = time.monotonic() - self._broken
                return f"its link broke {ago:.0f} s ago: it is gone, or cut off"
            return "its link is up: it is slow, or waits itself"

    def offer(self, connection: ssl.SSLSocket) -> None:
        """A new connection takes the place of the one before."""
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
        """Read in the thread that waits for ``key``, as long as messages are small.

        They are there sooner than another thread could be woken to read them, and this one to take them.
        """
        stream = self._stream
        if stream is None or self._large:  # the edge's thread must not step aside for nobody
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
                and self._inbox.waiting(self._peer) < _EARLY_MESSAGES
                and stream.gather(deadline)
            ):
                self._step(stream)
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
            try:
                self._serve(_Stream(connection))
            except FrameError as error:
                self._observer.refused(self._peer, error.reason)
            except OSError:
                pass
            with self._reading:
                if self._closed.is_set() and self._orderly:
                    with suppress(OSError):
                        connection.sendall(pack(_signal(Kind.END, self._received), self._run))
                with self._state:
                    self._stream = self._connection = None
                    self._broken = None if self._ended else time.monotonic()
                    connection.close()

    def _serve(self, stream: "_Stream") -> None:
        """Take messages in until the connection ends, unless the thread that waits for them does."""
        with self._reading:
            self._tell(stream)
        self._stream = stream
        while not self._closed.is_set():
            if stream.error is not None:
                raise stream.error
            if time.monotonic() - self._attention < _PARK_SECONDS:
                self._closed.wait(_PARK_SECONDS)
            elif self._inbox.waiting(self._peer) >= _EARLY_MESSAGES:
                self._closed.wait(_ROOM_SECONDS)
            else:
                with self._reading:
                    ready = stream.error is None and stream.readable(_POLL_SECONDS)
                    # TLS that has run into an end cannot send the last word any more
                    if ready and not self._closed.is_set():
                        self._step(stream)

    def _step(self, stream: "_Stream") -> None:
        """Take in one frame; ``_reading`` is held."""
        frame = unpack(stream.header(), self._run)
        if frame.kind is Kind.END:
            self._ended = True
            self._tell(stream)
            return
        if frame.kind is not Kind.DATA or frame.offset or frame.sequence > self._received + 1:
            raise FrameError("malformed")
        if frame.total > self._max_message_bytes:
            raise FrameError("oversized")
        self._large = frame.total >= _LARGE_BYTES
        try:
            message = self._pool.take(frame.total).data if self._large else memoryview(bytearray(frame.total))
        except MemoryError:
            raise FrameError("oversized") from None
        stream.read_into(message)
        if frame.sequence <= self._received:
            self._observer.refused(self._peer, "replayed")
            return
        self._received = frame.sequence
        self._inbox.put(Key(frame.iteration, frame.stage, self._peer), message)
        self._observer.received(self._peer, frame.total)
        if self._large or self._received - self._told >= _ACK_MESSAGES:
            self._tell(stream)

    def _tell(self, stream: "_Stream") -> None:
        stream.connection.sendall(pack(_signal(Kind.ACK, self._received), self._run))
        self._told = self._received


class _Stream:
    """The bytes of one connection; used by one thread at a time.

    Attributes:
        connection: where they come from.
        error: that ended it.
    """

    def __init__(self, connection: ssl.SSLSocket):
        self.connection = connection
        self.error: OSError | FrameError | None = None
        connection.settimeout(_ATTENTION_SECONDS)
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._start = self._end = 0  # of what has been read and not used

    def readable(self, timeout: float) -> bool:
        """Whether something is there within ``timeout`` seconds, be it the end."""
        return self._end > self._start or self._more(timeout)

    def gather(self, deadline: float) -> bool:
        """Whether the whole of a small message is there before ``deadline``, however it trickles in."""
        while True:
            left, needed = self._end - self._start, HEADER_BYTES
            if left >= HEADER_BYTES:
                total = announced(self._scratch[self._start : self._start + HEADER_BYTES])
                if total >= _LARGE_BYTES:
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

    def read_into(self, message: memoryview) -> None:
        """Fill ``message`` with the bytes that follow."""
        filled = min(len(message), self._end - self._start)
        message[:filled] = self._scratch[self._start : self._start + filled]
        self._start += filled
        while filled < len(message):
            with suppress(TimeoutError):
                filled += _some(self.connection.recv_into(message[filled:]))

    def _more(self, timeout: float) -> bool:
        return bool(self.connection.pending() or self._poll.poll(1000 * timeout))

    def _fill(self) -> None:
        left = self._end - self._start
        self._scratch[:left] = self._scratch[self._start : self._end]
        self._start, self._end = 0, left
        self._end += _some(self.connection.recv_into(self._scratch[left:]))


def hang_up(connection: ssl.SSLSocket, *, reading: bool = False) -> None:
    """End a connection that another thread may be using, which then gets an error."""
    with suppress(OSError):
        # SSLSocket.shutdown would let the other thread go on without TLS
        socket.socket.shutdown(connection, socket.SHUT_RD if reading else socket.SHUT_RDWR)


def _signal(kind: Kind, acknowledged: int = 0) -> Frame:
    return Frame(kind, 0, acknowledged, 0, 0, 0, 0, b"")


def _some(count: int) -> int:
    if count == 0:
        raise ConnectionError("the peer hung up")
    return count


def _read_exactly(connection: ssl.SSLSocket, length: int, deadline: float) -> bytearray:
    data = bytearray(length)
    view, filled = memoryview(data), 0
    while filled < length:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        if time.monotonic() > deadline:
            raise TimeoutError
        filled += _some(connection.recv_into(view[filled:]))
    return data


def _cause(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"the handshake was refused ({error.reason or error})"
    if isinstance(error, FrameError):
        return f"it does not answer as flaremesh does ({error.reason})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
