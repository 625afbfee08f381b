"""Where connections come in that the other end has dialled: they are authenticated and handed to their pair.

One thread serves all connections that are not authenticated yet, without ever waiting for one of them. It
drops those that do not finish handshake and greeting in time, and the oldest when there are too many.
"""

import errno
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from flaremesh.links.channel import tune
from flaremesh.links.credentials import Credentials, Untrusted
from flaremesh.links.frame import GREETING_BYTES, FrameError, unpack_greeting
from flaremesh.links.greeting import End, agree, opening, refusing
from flaremesh.links.link import Refusal
from flaremesh.links.tls import peer_name, refusal_of
from flaremesh.topology.links import LinkKind

_HANDSHAKE_SECONDS = 5.0
_LINGER_SECONDS = 1.0
_SHORTAGE_SECONDS = 0.1  # between looks for a free file descriptor
_PENDING = 256  # unauthenticated connections at a time

Refuse = Callable[[str, Refusal], None]
"""(name, reason): the name is empty unless a certificate of the mesh proves it, or a carrier tells it."""


@dataclass
class _Pending:
    """A connection that has not been handed over.

    Attributes:
        connection: TLS, or not any more once it has been refused.
        kind: what carries it.
        said: the neighbour that it is said to come from; None where nobody says so.
        deadline: when it is dropped, by ``time.monotonic``.
        name: the site that it comes from; None until that is proved.
        end: this site's end of the pair; None until then.
        refused: it only waits for the peer to read why.
        greeting: what has arrived of it.
    """

    connection: socket.socket
    kind: LinkKind
    said: str | None
    deadline: float
    name: str | None = None
    end: End | None = None
    refused: bool = False
    greeting: bytearray = field(default_factory=bytearray)


class Reception:
    """Receives until closed.

    Args:
        ends: this site's end of each pair, by neighbour.
        credentials: of this site; None in NVFlare's simulator: whoever brings a connection is believed there.
        run: digest of the run.
        refuse: called for each connection that was dropped.

    Raises:
        LinkError: the certificate cannot be used.
    """

    def __init__(self, ends: Mapping[str, End], credentials: Credentials | None, run: bytes, refuse: Refuse):
        self._ends = ends
        self._credentials = credentials
        self._context = credentials.listening() if credentials is not None else None
        self._run = run
        self._refuse = refuse
        self._pending: dict[socket.socket, _Pending] = {}  # in the order in which they came
        self._arrived: deque[tuple[socket.socket, LinkKind, str]] = deque()
        self._listening: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()
        self._closed = threading.Event()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="link-reception", daemon=True)
        self._thread.start()

    def listen(self, listening: socket.socket) -> None:
        """Take in who dials ``listening``, which belongs to the reception from now on."""
        listening.setblocking(False)  # accept would block where the dialler is gone already
        self._listening.append(listening)
        self._selector.register(listening, selectors.EVENT_READ)
        self._rouse()

    def take(self, stream: socket.socket, kind: LinkKind, said: str) -> None:
        """Take in a stream that a carrier brings; an Arrival."""
        self._arrived.append((stream, kind, said))
        if self._closed.is_set():  # whoever closes may have looked before
            self._turn_out()
        self._rouse()

    def close(self) -> None:
        """Free the ports and drop the connections that have not been handed over."""
        self._closed.set()
        self._rouse()
        self._thread.join()
        self._wake.close()
        self._woken.close()

    def _rouse(self) -> None:
        with suppress(OSError):  # closed
            self._wake.send(b"x")

    def _serve(self) -> None:
        while not self._closed.is_set():
            for key, _ in self._selector.select(self._patience()):
                if key.fileobj in self._listening:
                    self._accept(key.fileobj)
                elif key.fileobj is self._woken:
                    with suppress(BlockingIOError):
                        self._woken.recv(4096)
                elif isinstance(key.data, _Pending) and key.data.connection in self._pending:
                    self._advance(key.data)  # unless a newcomer of this round has crowded it out
            while self._arrived:
                self._admit(*self._arrived.popleft())
            now = time.monotonic()
            for pending in [p for p in self._pending.values() if p.deadline <= now]:
                self._drop(pending, Refusal.SILENT)
        for pending in list(self._pending.values()):
            self._forget(pending).close()
        self._turn_out()
        for listening in self._listening:
            listening.close()
        self._selector.close()

    def _turn_out(self) -> None:
        """Close the streams that nobody takes in any more; called by any thread."""
        with suppress(IndexError):
            while True:
                self._arrived.popleft()[0].close()

    def _patience(self) -> float | None:
        deadlines = [pending.deadline for pending in self._pending.values()]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _accept(self, listening: socket.socket) -> None:
        try:
            raw, _ = listening.accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                return  # the dialler is gone already
            if self._pending:
                self._drop(next(iter(self._pending.values())), Refusal.OVERLOAD)
            else:
                self._closed.wait(_SHORTAGE_SECONDS)
            return
        try:
            tune(raw)
        except OSError:
            raw.close()
            self._refuse("", Refusal.HANDSHAKE)
            return
        self._admit(raw, LinkKind.DIRECT, None)

    def _admit(self, raw: socket.socket, kind: LinkKind, said: str | None) -> None:
        if len(self._pending) >= _PENDING:
            # an honest site needs milliseconds, so the oldest is the least likely to be one
            self._drop(next(iter(self._pending.values())), Refusal.OVERLOAD)
        connection = raw
        try:
            raw.setblocking(False)
            if self._context is not None:
                connection = self._context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
        except OSError:
            raw.close()
            self._refuse(said or "", Refusal.HANDSHAKE)
            return
        pending = _Pending(connection, kind, said, time.monotonic() + _HANDSHAKE_SECONDS)
        self._pending[connection] = pending
        self._selector.register(connection, selectors.EVENT_READ, pending)
        self._advance(pending)

    def _advance(self, pending: _Pending) -> None:
        """Go on as far as what has arrived allows."""
        connection = pending.connection
        if pending.refused:
            self._discard(pending)
            return
        try:
            if pending.name is None:
                name = self._identified(pending)
                if pending.said not in (None, name):
                    # without a word: the neighbour has not done that, and must not take it for an answer
                    self._drop(pending, Refusal.FORGED)
                    return
                pending.name = name
                if name not in self._ends:
                    self._forget(pending)
                    self._turn_away(connection, name, Refusal.STRANGER)
                    return
                pending.end = end = self._ends[name]
                if pending.kind not in end.carriers:
                    self._forget(pending)
                    self._turn_away(connection, name, Refusal.CARRIER)
                    return
                connection.send(opening(end, self._run))  # the first bytes fit into the buffer
            while len(pending.greeting) < GREETING_BYTES:
                piece = connection.recv(GREETING_BYTES - len(pending.greeting))
                if not piece:
                    self._drop(pending, Refusal.HANDSHAKE)
                    return
                pending.greeting += piece
        except (ssl.SSLWantReadError, BlockingIOError):
            self._selector.modify(connection, selectors.EVENT_READ, pending)
            return
        except ssl.SSLWantWriteError:
            self._selector.modify(connection, selectors.EVENT_WRITE, pending)
            return
        except ssl.SSLError as error:
            self._linger(pending, refusal_of(error))
            return
        except Untrusted as error:
            self._forget(pending)
            self._turn_away(connection, pending.said or "", error.reason)
            return
        except OSError:
            self._drop(pending, Refusal.HANDSHAKE)
            return
        self._greet(pending)

    def _identified(self, pending: _Pending) -> str:
        """Who is at the other end; raises SSLWantReadError and SSLWantWriteError while that is not known."""
        connection = pending.connection
        if self._credentials is None or not isinstance(connection, ssl.SSLSocket):
            return pending.said or ""
        connection.do_handshake()
        return peer_name(connection, self._credentials)

    def _linger(self, pending: _Pending, reason: Refusal) -> None:
        """Read on for a moment: closing on unread data would destroy the alert that tells the peer why."""
        self._forget(pending)
        self._refuse(pending.said or "", reason)
        raw = socket.socket(fileno=pending.connection.detach())
        raw.setblocking(False)
        with suppress(OSError):
            raw.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + _LINGER_SECONDS
        self._pending[raw] = _Pending(raw, pending.kind, pending.said, deadline, refused=True)
        self._selector.register(raw, selectors.EVENT_READ, self._pending[raw])

    def _discard(self, pending: _Pending) -> None:
        try:
            if pending.connection.recv(1 << 16):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._forget(pending).close()

    def _greet(self, pending: _Pending) -> None:
        name, end, connection = pending.name or "", pending.end, pending.connection
        self._forget(pending)
        try:
            heard = unpack_greeting(pending.greeting, self._run)
            if end is not None:
                agree(end, heard, connection, pending.kind)
        except FrameError as error:
            self._turn_away(connection, name, error.reason)

    def _turn_away(self, connection: socket.socket, name: str, reason: Refusal) -> None:
        self._refuse(name, reason)
        with suppress(OSError):
            connection.setblocking(False)  # little was sent yet, so that a few bytes fit into the buffer
            connection.sendall(refusing(reason, self._run))
        connection.close()

    def _drop(self, pending: _Pending, reason: Refusal) -> None:
        connection = self._forget(pending)
        if not pending.refused:
            self._refuse(pending.name or pending.said or "", reason)
        connection.close()

    def _forget(self, pending: _Pending) -> socket.socket:
        del self._pending[pending.connection]
        self._selector.unregister(pending.connection)
        return pending.connection
