"""How a site makes a connection: a stream, TLS, and the proof who each end is."""

import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress

from flaremesh.links.attempts import Attempts
from flaremesh.links.carrier import Carrier
from flaremesh.links.credentials import Credentials, Untrusted
from flaremesh.links.errors import LinkRefused
from flaremesh.links.frame import GREETING_BYTES, FrameError, Greeting, Word, unpack_greeting
from flaremesh.links.greeting import End, agree, opening
from flaremesh.links.link import Refusal
from flaremesh.links.tls import cause_of, is_about_certificate, peer_name, refusal_of


class Misled(ConnectionError):
    """What carries a stream has brought no connection with the neighbour, which has no part in that."""


class Dialler:
    """Makes connections that this end dials.

    Args:
        site: name of this site.
        run: digest of the run.
        credentials: of this site; None in NVFlare's simulator, which has no kits: nothing is sealed there.
        refuse: called with the peer and why it is not accepted.
        attempts: of the link.

    Raises:
        LinkError: the certificate cannot be used.
    """

    def __init__(
        self,
        site: str,
        run: bytes,
        credentials: Credentials | None,
        refuse: Callable[[str, Refusal], None],
        attempts: Attempts | None = None,
    ):
        self._site, self._run, self._credentials, self._refuse = site, run, credentials, refuse
        self._attempts = attempts or Attempts()
        self._context = credentials.dialling() if credentials is not None else None

    def connect(self, end: End, carrier: Carrier, timeout: float) -> None:
        """Connect once, and let ``end`` go on over that.

        Raises:
            LinkRefused: one end does not accept the other.
            Misled: somebody else answers, or somebody between the two garbles what they say.
            OSError: there is no connection.
        """
        deadline = time.monotonic() + timeout
        connection = carrier.dial(end.peer, timeout)
        is_proven = False
        try:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            if self._context is not None and self._credentials is not None:
                connection = secure = self._context.wrap_socket(connection, do_handshake_on_connect=False)
                with self._attempts.on(secure):
                    secure.do_handshake()
                if (name := peer_name(secure, self._credentials)) != end.peer:
                    raise Untrusted(Refusal.STRANGER, f"{name} answers there")
                is_proven = True
            with self._attempts.on(connection):
                with suppress(ConnectionError):  # it may have said already why it refuses this site
                    connection.sendall(opening(end, self._run))
                heard = self._read(connection, deadline)
            if heard.word is Word.REFUSED:
                raise LinkRefused(self._blame(end.peer, carrier, f"it refuses this site: {heard.reason}"))
            agree(end, heard, connection, carrier.kind)
        except BaseException as error:
            connection.close()
            # a connection may end by accident, a wrong answer is no accident
            accident = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
            if isinstance(error, ssl.SSLError | FrameError | Untrusted) and not accident:
                if (reason := refusal_of(error)) is not Refusal.REJECTED:
                    self._refuse(end.peer, reason)
                cause = cause_of(error)
                # whoever stands between can break a connection, and must not be able to end the edge by that
                if carrier.is_forwarded and not (is_proven and _is_said(error)):
                    raise Misled(cause) from error
                raise LinkRefused(self._blame(end.peer, carrier, cause)) from error
            raise

    def end(self) -> None:
        """Let the connections fail that are being made, and each further one."""
        self._attempts.end()

    def _read(self, connection: socket.socket, deadline: float) -> Greeting:
        data = bytearray()
        while len(data) < GREETING_BYTES:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            if time.monotonic() > deadline:
                raise TimeoutError
            piece = connection.recv(GREETING_BYTES - len(data))
            if not piece:
                raise ConnectionError("the peer hung up")
            data += piece
        return unpack_greeting(data, self._run)

    def _blame(self, peer: str, carrier: Carrier, cause: str) -> str:
        return (
            f"{self._site} has no link to {peer}{carrier.whereabouts(peer)}: {cause}. "
            "Certificates, addresses and edges must come from one provisioning"
        )


def _is_said(error: Exception) -> bool:
    """Whether only who is at the other end can have caused ``error``: TLS would have noticed a change."""
    return isinstance(error, FrameError) or (isinstance(error, ssl.SSLError) and is_about_certificate(error))
