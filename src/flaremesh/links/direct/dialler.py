"""How a site reaches an out-neighbour: a TCP connection, TLS, and the proof who each end is."""

import socket
import ssl
import time
from collections.abc import Callable

from flaremesh.links.carrier import Address
from flaremesh.links.credentials import Credentials, Untrusted
from flaremesh.links.direct.connection import read_exactly, signal, tune
from flaremesh.links.direct.tls import cause_of, peer_name, refusal_of
from flaremesh.links.errors import LinkRefused
from flaremesh.links.frame import HEADER_BYTES, FrameError, Kind, unpack
from flaremesh.links.link import Refusal


class Dialler:
    """Dials one out-neighbour.

    Args:
        site: name of this site.
        peer: name of the out-neighbour, which its certificate must prove.
        address: where it listens.
        run: digest of the run.
        credentials: of this site.
        context: TLS with these credentials.
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
        refuse: Callable[[str, Refusal], None],
    ):
        self.site, self.peer, self.run = site, peer, run
        self._address, self._credentials, self._context = address, credentials, context
        self._refuse = refuse

    def dial(self, timeout: float) -> tuple[ssl.SSLSocket, int]:
        """Connect once; returns the connection and how many messages the peer has got."""
        deadline = time.monotonic() + timeout
        try:
            connection = socket.create_connection(self._address, timeout)
        except (ValueError, OverflowError) as error:  # the peer may have announced any address
            raise OSError(f"that is no address ({error})") from error
        try:
            tune(connection)
            connection = secure = self._context.wrap_socket(connection)
            if (name := peer_name(secure, self._credentials)) != self.peer:
                raise Untrusted(Refusal.STRANGER, f"{name} answers there")
            secure.sendall(signal(Kind.HELLO, self.run))
            arrived = self._read_answer(secure, deadline)
            secure.settimeout(None)
        except BaseException as error:
            connection.close()
            # a connection may end by accident, a wrong answer is no accident
            accident = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
            if isinstance(error, ssl.SSLError | FrameError | Untrusted) and not accident:
                raise self.refusal(error) from error
            raise
        return secure, arrived

    def _read_answer(self, connection: ssl.SSLSocket, deadline: float) -> int:
        frame = unpack(read_exactly(connection, HEADER_BYTES, deadline), self.run)
        if frame.kind is Kind.REFUSED:
            reason = bytes(read_exactly(connection, min(frame.total, 64), deadline))
            raise LinkRefused(
                self._blame(f"it refuses this site: {ascii(reason.decode(errors='replace'))[1:-1]}")
            )
        if frame.kind is not Kind.ACK:
            raise FrameError(Refusal.MALFORMED)
        return frame.acknowledged

    def refusal(self, error: Exception) -> LinkRefused:
        """What to raise where one end does not accept the other; counts it where that end is this one."""
        if (reason := refusal_of(error)) is not Refusal.REJECTED:
            self._refuse(self.peer, reason)
        return LinkRefused(self._blame(cause_of(error)))

    def _blame(self, cause: str) -> str:
        host, port = self._address
        return (
            f"{self.site} has no link to {self.peer} at {host}:{port}: {cause}. "
            "Certificates, addresses and edges must come from one provisioning"
        )
