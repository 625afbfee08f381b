"""The sending end of a direct edge: dials, writes, keeps what is unacknowledged, and dials again."""

import logging
import math
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

from flaremesh.links import life
from flaremesh.links.carrier import Lost, Message
from flaremesh.links.direct.connection import LARGE_BYTES, hang_up, signal
from flaremesh.links.direct.dialler import Dialler
from flaremesh.links.direct.tls import cause_of
from flaremesh.links.errors import LinkError, LinkRefused
from flaremesh.links.frame import HEADER_BYTES, Frame, FrameError, Kind, pack, unpack
from flaremesh.links.life import Tolerance
from flaremesh.links.link import Cancelled, Refusal, require_room

_log = logging.getLogger(__name__)

_Made: TypeAlias = tuple[ssl.SSLSocket, int]  # a connection, and how many messages the peer has got

_DIAL_SECONDS = 5.0  # to make a link, or to make it again, in however many attempts
_ATTEMPT_SECONDS = 3.0  # for one of them, where the edge is patient: then the next one may find a way
_BACKOFF_SECONDS = 0.05  # after the first failed attempt; after each further one twice as long
_BACKOFF_SECONDS_MAX = 1.0
_RETURN_SECONDS = 5.0  # after an edge was handed over; after each attempt to have it back twice as long
_RETURN_SECONDS_MAX = 120.0
_SETTLE_SECONDS = 5.0  # for what the other carrier has taken on to arrive
_SETTLE_POLL_SECONDS = 0.01
_POLL_SECONDS = 0.2  # how soon an abort is noticed


class Outgoing:
    """The edge to one out-neighbour.

    ``_state`` guards the messages and is held for moments; ``_io`` guards the connection, which OpenSSL does
    not let two threads use, and is held while something is written.

    Attributes:
        heard: when the peer last gave a sign of life, by ``time.monotonic``.

    Args:
        dialler: of the out-neighbour.
        lost: called where the edge was made, broke, and could not be made again in time; with ``settled``,
            it may be made again later.
        fail: called once, instead, where it broke because one end does not accept the other.
        tolerance: see Edges.
        vouched: see Edges.
        settled: whether all that another carrier took over has arrived, so that the edge may come back; None
            where there is no other.
    """

    def __init__(
        self,
        dialler: Dialler,
        lost: Lost,
        fail: Callable[[LinkError], None],
        tolerance: Tolerance | None = None,
        vouched: Callable[[], bool] = lambda: False,
        settled: Callable[[], bool] | None = None,
    ):
        self._dialler, self._peer, self._run = dialler, dialler.peer, dialler.run
        self._lost, self._fail = lost, fail
        self._tolerance, self._vouched, self._elsewhere_settled = tolerance, vouched, settled
        self.heard = -math.inf
        self._broken: float | None = None  # when the last connection broke; None while there is one
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
        self._thread = threading.Thread(target=self._keep, name=f"link-to-{self._peer}", daemon=True)
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

    @property
    def healing(self) -> float:
        """Until when the edge, if it is cut, is dialled again, by ``time.monotonic``."""
        broken = self._broken
        return -math.inf if broken is None or self._tolerance is None else broken + self._tolerance.redial

    def _hang_up(self) -> None:
        connection = self._connection
        if connection is not None:
            hang_up(connection)

    def _rouse(self) -> None:
        with suppress(OSError):  # full, or closed
            self._wake.send(b"x")

    def _keep(self) -> None:
        """Connect, serve, and connect again, until closed or given up."""
        made: _Made | None = None
        while made or not (self._closed.is_set() or self._done):
            try:
                connection = self._adopt(made or self._reconnect())
            except LinkRefused as error:
                self._refused = error
                self._give_up(str(error))
                return
            except OSError as error:
                if not self._give_up(cause_of(error)) or (made := self._come_back()) is None:
                    return
                continue
            if connection is None:
                return
            made, cause = None, None
            try:
                made = self._serve(connection)
            except FrameError as error:
                cause = error
            except OSError:
                pass
            with self._io:
                self._connection = None
                self._broken = time.monotonic()
                connection.close()
            if cause is not None:
                self._refused = self._dialler.refusal(cause)
                self._give_up(str(self._refused))
                return
            if made is None:  # a peer that always hangs up must not keep us busy
                self._closed.wait(_BACKOFF_SECONDS)

    def _reconnect(self) -> _Made | None:
        """Dial until there is a connection; raises the last attempt's error when the time is over."""
        begun, pause = time.monotonic(), _BACKOFF_SECONDS
        within = attempt = _DIAL_SECONDS
        if self._tolerance is not None and self._tried:
            within, attempt = max(within, self._tolerance.redial), min(attempt, _ATTEMPT_SECONDS)
        refused: float | None = None
        while True:
            try:
                return self._dialler.dial(max(0.1, min(attempt, begun + within - time.monotonic())))
            except OSError as error:
                now = time.monotonic()
                # an edge that is cut answers nothing: at a host that refuses, the process is gone
                refused = (refused or now) if isinstance(error, ConnectionRefusedError) else None
                end = begun + within if refused is None else min(begun + within, refused + _DIAL_SECONDS)
                if now + pause > end:
                    raise
            if self._closed.wait(pause):
                return None
            pause = min(2 * pause, _BACKOFF_SECONDS_MAX)

    def _come_back(self) -> _Made | None:
        """Dial now and then an edge that another carrier has, and take it back; None: it stays there."""
        pause = _RETURN_SECONDS
        while self._elsewhere_settled is not None and not self._closed.wait(pause):
            pause = min(2 * pause, _RETURN_SECONDS_MAX)
            try:
                connection, arrived = made = self._dialler.dial(_ATTEMPT_SECONDS)
            except LinkRefused as error:
                _log.warning("%s; the edge is not dialled again", error)
                return None
            except OSError:
                continue
            with self._state:
                if not self._settled <= arrived <= self._sequence:
                    _log.warning("%s", self._dialler.refusal(FrameError(Refusal.MALFORMED)))
                    connection.close()
                    return None
                self._settled = self._sequence = arrived  # what came after it went by the other carrier
                self._next = arrived + 1
                self._gone = None  # messages wait here from now on, and none goes by the other carrier
            if self._is_settled_elsewhere():
                return made
            connection.close()
            if not self._give_up("what was relayed has not arrived"):
                return None
        return None

    def _is_settled_elsewhere(self) -> bool:
        deadline = time.monotonic() + _SETTLE_SECONDS
        while self._elsewhere_settled is not None and not self._elsewhere_settled():
            if time.monotonic() > deadline or self._closed.wait(_SETTLE_POLL_SECONDS):
                return False
        return True

    def _adopt(self, made: _Made | None) -> ssl.SSLSocket | None:
        """Use a connection from now on."""
        if made is None:
            return None
        connection, arrived = made
        with self._io, self._state:
            try:
                self._settle(arrived)
            except FrameError as error:
                connection.close()
                raise self._dialler.refusal(error) from error
            self._next = arrived + 1
            self._acknowledgements.clear()
            self._connection, self._broken = connection, None
            self.heard = time.monotonic()
            self._tried = True
            self._state.notify_all()
        return connection

    def _serve(self, connection: ssl.SSLSocket) -> _Made | None:
        """Write what is there to write and take acknowledgements, until closed.

        Returns:
            a further connection, where no sign of life came over this one and the peer answers there.

        Raises:
            OSError: the connection breaks.
            FrameError: what came is no acknowledgement.
        """
        ended, tolerant = False, self._tolerance is not None
        due = probe = 0.0
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while not self._closed.is_set() and not self._done:
            with self._io:
                self._write(connection)
                if self._ending and self._messages and not ended:
                    ended = True
                    connection.sendall(signal(Kind.END, self._run))
            if tolerant and (now := time.monotonic()) >= due:
                due = now + life.SIGN_SECONDS
                if self._vouched():
                    with self._io:
                        connection.sendall(signal(Kind.ALIVE, self._run))
                if now > max(self.heard, probe) + life.SILENT_SECONDS:
                    probe = now
                    if (made := self._probe()) is not None:
                        return made
            for descriptor, _ in poll.poll(1000 * life.SIGN_SECONDS if tolerant else None):
                if descriptor == self._woken.fileno():
                    self._woken.recv(4096)
                else:
                    with self._io:
                        self._read_acknowledgements(connection)
        return None

    def _probe(self) -> _Made | None:
        """Dial beside a silent connection, which a peer that has merely stopped keeps."""
        with suppress(OSError, LinkRefused):
            return self._dialler.dial(_ATTEMPT_SECONDS)
        return None

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
            self.heard = time.monotonic()
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

    def _give_up(self, cause: str) -> bool:
        """Take on nothing more; returns whether what was not acknowledged was handed to another carrier."""
        with self._state:
            self._gone = cause
            untaken = list(self._messages)
            self._messages.clear()
            self._bytes = 0
            first, self._tried = not self._tried, True
            closed = self._closed.is_set()  # a later close() waits until this thread has handed the rest on
            self._state.notify_all()
        if first or closed:
            return False
        if self._refused is not None:
            self._fail(self._refused)
            return False
        self._lost(self._peer, cause, untaken)
        return True
