"""What both ends of a direct link do with its connection."""

import socket
import ssl
import time
from contextlib import suppress

from flaremesh.links.frame import Frame, Kind, pack

LARGE_BYTES = 1 << 15
"""From this length on, a message is sent by the edge's own thread, and received into pooled memory."""

_GONE_MILLISECONDS = 10_000  # a connection whose bytes stay unacknowledged for so long is broken


def tune(connection: socket.socket) -> None:
    """Let small messages leave at once, and notice within some seconds that the peer is gone."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 4)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _GONE_MILLISECONDS)


def hang_up(connection: ssl.SSLSocket, *, reading: bool = False) -> None:
    """End a connection; a thread that is using it gets an error.

    Args:
        connection: the connection.
        reading: end only what comes in; what goes out may go on.
    """
    with suppress(OSError):
        # SSLSocket.shutdown would let the other thread go on without TLS
        socket.socket.shutdown(connection, socket.SHUT_RD if reading else socket.SHUT_RDWR)


def signal(kind: Kind, run: bytes, acknowledged: int = 0) -> bytes:
    """The bytes of a frame without a message; ``run`` is the run's digest."""
    return pack(Frame(kind, 0, acknowledged, 0, 0, 0, 0, b""), run)


def some(count: int) -> int:
    """Return ``count``, the number of bytes that were read; raise ConnectionError for 0, the end."""
    if count == 0:
        raise ConnectionError("the peer hung up")
    return count


def read_exactly(connection: ssl.SSLSocket, length: int, deadline: float) -> bytearray:
    """The next ``length`` bytes; raises TimeoutError at ``deadline``, by ``time.monotonic``."""
    data = bytearray(length)
    view, filled = memoryview(data), 0
    while filled < length:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        if time.monotonic() > deadline:
            raise TimeoutError
        filled += some(connection.recv_into(view[filled:]))
    return data
