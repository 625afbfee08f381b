"""The sending end of a direct edge: dials, writes, keeps what is unacknowledged, and dials again."""

import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from flaremesh.links.carrier import Address, Lost, Message
from flaremesh.links.credentials import Credentials, Untrusted
from flaremesh.links.direct.connection import LARGE_BYTES, hang_up, read_exactly, signal, tune
from flaremesh.links.direct.tls import cause_of, peer_name, refusal_of
from flaremesh.links.errors import LinkError, LinkRefused
from flaremesh.links.frame import HEADER_BYTES, Frame, FrameError, Kind, pack, unpack
from flaremesh.links.link import Cancelled, Refusal, require_room

_DIAL_SECONDS = 5.0  # to make a link, or to make it again, in however many attempts
_BACKOFF_SECONDS = 0.05  # after the first failed attempt; after each further one twice as long
_POLL_SECONDS = 0.2  # how soon an abort is noticed


class Outgoing:
    """The edge to one out-neighbour.

    ``_state`` guards the messages and is held for moments; ``_io`` guards the connection, which OpenSSL does
    not let two threads use, and is held while something is written.

    Args:
        site: name of this site.
        peer: name of the out-neighbour, which its certificate must prove.
        address: where it listens.
        run: digest of the run.
        credentials: of this site.
        context: TLS with these credentials.
        lost: called once where the edge was made, broke, and could not be made again within some seconds.
        fail: called once, instead, where it broke because one end does not accept the other.
        refuse: called with the peer and why it is not accepted.
    """

    def __init__(
        self,
        site: str,
        peer: str,
        address: Address,
        run: bytes,
        credentials: Credentials,
        context: ssl.SSLContext,
        lost: Lost,
        fail: Callable[[LinkError], None],
        refuse: Callable[[str, Refusal], None],
    ):
        self._site, self._peer, self._address, self._run = site, peer, address, run
        self._credentials, self._context = credentials, context
        self._lost, self._fail, self._refuse = lost, fail, refuse
        self._state = threading.Condition()
        self._io = threading.Lock()
        self._messages: deque[Message] = deque()  # that are not acknowledged
        self._bytes = 0  # of these
        self._longest = 0  # of all messages so far, in bytes
        self._settled = 0  # number of the last message that is acknowledged
        self._sequence = 0  # of the latest message
        self._next = 1  # the message to be written next
        self._connection: ssl.SSLSocket | None = None
        self._acknowledgements = bytearray()
        self._tried = False  # whether the first connection was made or given up
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
        """Wait for the first connection; returns why there is none, or none any more.

        Raises:
            LinkRefused: one end does not accept the other.
        """
        with self._state:
            self._state.wait_for(lambda: self._tried)
        if self._refused is not None:
            raise self._refused
        return self._gone

    def send(self, message: Message) -> str | None:
        """Take on a message; returns why if there will be no connection any more.

        Raises:
            LinkRefused: there will be none because one end does not accept the other.
            PeerBehind: too much waits for the peer already.
        """
        length = message.length
        with self._state:
            if self._gone is not None:
                if self._refused is not None:
                    raise self._refused
                return self._gone
            if self._done:
                return None  # the peer has ended, and wants no more
            if length > self._longest:
                self._longest = length
            require_room(self._peer, len(self._messages), self._bytes, self._longest)
            self._sequence += 1
            self._bytes += length
            self._messages.append(message)
        # waking the thread would cost a small message more than sending it
        if length < LARGE_BYTES and self._io.acquire(blocking=False):
            try:
                if self._connection is not None:  # else the thread writes it to the next one
                    self._write(self._connection)
            except OSError:
                self._hang_up()  # which the thread notices
            finally:
                self._io.release()
        else:
            self._rouse()
        return None

    def flush(self, deadline: float, cancelled: Cancelled) -> None:
        """Wait until all messages are acknowledged, until ``deadline``, or until ``cancelled``."""
        self._ending = True
        self._rouse()
        with self._state:
            while self._messages and not self._done and not cancelled():
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return
                self._state.wait(min(remaining, _POLL_SECONDS))

    def stop(self) -> None:
        """End the connection, make no other, and do not wait for anything."""
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
                self._give_up(cause_of(error))
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
                self._refused = self._refusal(cause)
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
                raise self._refusal(error) from error
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
        except (ValueError, OverflowError) as error:  # the peer may have announced any address
            raise OSError(f"that is no address ({error})") from error
        try:
            tune(connection)
            connection = secure = self._context.wrap_socket(connection)
            if (name := peer_name(secure, self._credentials)) != self._peer:
                raise Untrusted(Refusal.STRANGER, f"{name} answers there")
            secure.sendall(signal(Kind.HELLO, self._run))
            arrived = self._read_answer(secure, deadline)
            secure.settimeout(None)
        except BaseException as error:
            connection.close()
            # a connection may end by accident, a wrong answer is no accident
            accident = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
            if isinstance(error, ssl.SSLError | FrameError | Untrusted) and not accident:
                raise self._refusal(error) from error
            raise
        return secure, arrived

    def _read_answer(self, connection: ssl.SSLSocket, deadline: float) -> int:
        frame = unpack(read_exactly(connection, HEADER_BYTES, deadline), self._run)
        if frame.kind is Kind.REFUSED:
            reason = bytes(read_exactly(connection, min(frame.total, 64), deadline))
            raise LinkRefused(
                self._blame(f"it refuses this site: {ascii(reason.decode(errors='replace'))[1:-1]}")
            )
        if frame.kind is not Kind.ACK:
            raise FrameError(Refusal.MALFORMED)
        return frame.acknowledged

    def _refusal(self, error: Exception) -> LinkRefused:
        """What to raise where one end does not accept the other; counts it where that end is this one."""
        if (reason := refusal_of(error)) is not Refusal.REJECTED:
            self._refuse(self._peer, reason)
        return LinkRefused(self._blame(cause_of(error)))

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
                    connection.sendall(signal(Kind.END, self._run))
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
                sequence = self._next
                message = self._messages[sequence - 1 - self._settled]
                self._next += 1
            kind = Kind.REPEAT if message.repeat else Kind.DATA
            key, total = message.key, message.length
            header = pack(Frame(kind, sequence, 0, key.iteration, key.stage, 0, total, b""), self._run)
            if total < LARGE_BYTES:
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
                raise FrameError(Refusal.MALFORMED)
            with self._state:
                self._settle(frame.acknowledged)
                self._done = self._done or frame.kind is Kind.END

    def _settle(self, arrived: int) -> None:
        """Forget what the peer has got; ``_state`` is held."""
        if not self._settled <= arrived < self._next:  # neither take back, nor get what was not written
            raise FrameError(Refusal.MALFORMED)
        while self._settled < arrived:
            self._settled += 1
            self._bytes -= self._messages.popleft().length
        self._state.notify_all()

    def _give_up(self, cause: str) -> None:
        with self._state:
            self._gone = cause
            untaken = list(self._messages)
            self._messages.clear()
            first, self._tried = not self._tried, True
            closed = self._closed.is_set()  # a later close() waits until this thread has handed the rest on
            self._state.notify_all()
        if first or closed:
            return
        if self._refused is not None:
            self._fail(self._refused)
        else:
            self._lost(self._peer, cause, untaken)
