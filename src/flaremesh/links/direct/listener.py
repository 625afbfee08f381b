"""Where neighbours dial in: connections are accepted, authenticated and handed over.

One thread serves all connections that are not authenticated yet, without ever waiting for one of them. It
drops those that do not finish handshake and greeting in time, and the oldest when there are too many.
"""

import errno
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from flaremesh.links.credentials import Credentials, Untrusted
from flaremesh.links.direct.connection import tune
from flaremesh.links.direct.tls import peer_name, refusal_of
from flaremesh.links.errors import LinkError
from flaremesh.links.frame import HEADER_BYTES, Frame, FrameError, Kind, pack, unpack
from flaremesh.links.link import Refusal

_HANDSHAKE_SECONDS = 5.0
_LINGER_SECONDS = 1.0
_SHORTAGE_SECONDS = 0.1  # between looks for a free file descriptor
_PENDING = 256  # unauthenticated connections at a time
_BACKLOG = 1024

Refuse = Callable[[str, Refusal], None]
"""(name, reason): the name is empty unless a certificate of the mesh proves it."""


@dataclass
class _Pending:
    """A connection that has not been handed over.

    Attributes:
        connection: TLS, or TCP once it has been refused.
        deadline: when it is dropped, by ``time.monotonic``.
        name: the site that its certificate names; None until the handshake is over.
        refused: it only waits for the peer to read why.
        greeting: what has arrived of the first frame.
    """

    connection: socket.socket
    deadline: float
    name: str | None = None
    refused: bool = False
    greeting: bytearray = field(default_factory=bytearray)


class Listener:
    """Listens until closed.

    Args:
        host: name under which neighbours dial; with localhost or 127.*, only this machine can.
        ports: inclusive range of ports, of which the first free one is taken.
        credentials: of this site.
        run: digest of the run.
        welcome: called from the listener's thread with name and blocking connection of each site that has
            greeted; returns why it is not taken, None if it is.
        refuse: called for each connection that was dropped.

    Attributes:
        port: the one that was taken.

    Raises:
        LinkError: no port of the range is free, or the certificate cannot be used.
    """

    def __init__(
        self,
        host: str,
        ports: tuple[int, int],
        credentials: Credentials,
        run: bytes,
        welcome: Callable[[str, ssl.SSLSocket], Refusal | None],
        refuse: Refuse,
    ):
        self._credentials, self._context = credentials, credentials.listening()
        self._socket = _bind(host, ports)
        self._socket.setblocking(False)  # accept would block where the dialler is gone already
        self.port = int(self._socket.getsockname()[1])
        self._run = run
        self._welcome = welcome
        self._refuse = refuse
        self._pending: dict[socket.socket, _Pending] = {}  # in the order in which they came
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._closed = threading.Event()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="link-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Free the port and drop the connections that have not been handed over."""
        self._closed.set()
        self._wake.send(b"x")
        self._thread.join()
        self._wake.close()
        self._woken.close()

    def _serve(self) -> None:
        while not self._closed.is_set():
            for key, _ in self._selector.select(self._patience()):
                if key.fileobj is self._socket:
                    self._accept()
                elif isinstance(key.data, _Pending) and key.data.connection in self._pending:
                    self._advance(key.data)  # unless a newcomer of this round has crowded it out
            now = time.monotonic()
            for pending in [p for p in self._pending.values() if p.deadline <= now]:
                self._drop(pending, Refusal.SILENT)
        for pending in list(self._pending.values()):
            self._forget(pending).close()
        self._socket.close()
        self._selector.close()

    def _patience(self) -> float | None:
        deadlines = [pending.deadline for pending in self._pending.values()]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _accept(self) -> None:
        try:
            raw, _ = self._socket.accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                return  # the dialler is gone already
            if self._pending:
                self._drop(next(iter(self._pending.values())), Refusal.OVERLOAD)
            else:
                self._closed.wait(_SHORTAGE_SECONDS)
            return
        if len(self._pending) >= _PENDING:
            # an honest site needs milliseconds, so the oldest is the least likely to be one
            self._drop(next(iter(self._pending.values())), Refusal.OVERLOAD)
        try:
            tune(raw)
            raw.setblocking(False)
            connection = self._context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
        except OSError:
            raw.close()
            self._refuse("", Refusal.HANDSHAKE)
            return
        pending = _Pending(connection, time.monotonic() + _HANDSHAKE_SECONDS)
        self._pending[connection] = pending
        self._selector.register(connection, selectors.EVENT_READ, pending)
        self._advance(pending)

    def _advance(self, pending: _Pending) -> None:
        """Go on as far as what has arrived allows."""
        connection = pending.connection
        if not isinstance(connection, ssl.SSLSocket):
            self._discard(pending)
            return
        try:
            if pending.name is None:
                connection.do_handshake()
                pending.name = peer_name(connection, self._credentials)
            while len(pending.greeting) < HEADER_BYTES:
                piece = connection.recv(HEADER_BYTES - len(pending.greeting))
                if not piece:
                    self._drop(pending, Refusal.HANDSHAKE)
                    return
                pending.greeting += piece
        except ssl.SSLWantReadError:
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
            self._turn_away(connection, "", error.reason)
            return
        except OSError:
            self._drop(pending, Refusal.HANDSHAKE)
            return
        self._greet(pending, connection)

    def _linger(self, pending: _Pending, reason: Refusal) -> None:
        """Read on for a moment: closing on unread data would destroy the alert that tells the peer why."""
        self._forget(pending)
        self._refuse("", reason)
        raw = socket.socket(fileno=pending.connection.detach())
        raw.setblocking(False)
        with suppress(OSError):
            raw.shutdown(socket.SHUT_WR)
        self._pending[raw] = _Pending(raw, time.monotonic() + _LINGER_SECONDS, refused=True)
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

    def _greet(self, pending: _Pending, connection: ssl.SSLSocket) -> None:
        name = pending.name or ""
        try:
            if unpack(pending.greeting, self._run).kind is not Kind.HELLO:
                raise FrameError(Refusal.MALFORMED)
        except FrameError as error:
            self._forget(pending)
            self._turn_away(connection, name, error.reason)
            return
        self._forget(pending)
        connection.setblocking(True)
        if (reason := self._welcome(name, connection)) is not None:
            self._turn_away(connection, name, reason)

    def _turn_away(self, connection: ssl.SSLSocket, name: str, reason: Refusal) -> None:
        self._refuse(name, reason)
        text = reason.encode()
        with suppress(OSError):
            connection.setblocking(False)  # nothing was sent yet, so that a few bytes fit into the buffer
            connection.sendall(pack(Frame(Kind.REFUSED, 0, 0, 0, 0, 0, len(text), text), self._run))
        connection.close()

    def _drop(self, pending: _Pending, reason: Refusal) -> None:
        connection = self._forget(pending)
        if not pending.refused:
            self._refuse(pending.name or "", reason)
        connection.close()

    def _forget(self, pending: _Pending) -> socket.socket:
        del self._pending[pending.connection]
        self._selector.unregister(pending.connection)
        return pending.connection


def _bind(host: str, ports: tuple[int, int]) -> socket.socket:
    address = host if host == "localhost" or host.startswith("127.") else ""
    for port in _range(ports):
        try:
            return socket.create_server((address, port), backlog=_BACKLOG)
        except OSError:
            continue
    taken = f"port {ports[0]} is" if ports[0] == ports[1] else f"all ports {ports[0]}-{ports[1]} are"
    raise LinkError(
        f"{taken} taken: no neighbour can dial in. Every run at a site takes a port; widen its link.ports"
    )


def _range(ports: tuple[int, int]) -> Iterator[int]:
    yield from range(ports[0], ports[1] + 1)
