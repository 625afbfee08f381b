"""The connections that a link is making, which whoever closes it ends at once."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from flaremesh.links.carrier import Address


class Attempts:
    """All attempts of a link; used by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: set[socket.socket] = set()
        self._ended = False

    def end(self) -> None:
        """Let those that are under way fail, and each further one."""
        with self._lock:
            self._ended = True
            for stream in self._streams:
                with suppress(OSError):  # it has failed by itself
                    # SSLSocket.shutdown would let the other thread go on without TLS
                    socket.socket.shutdown(stream, socket.SHUT_RDWR)

    @contextmanager
    def on(self, stream: socket.socket) -> Iterator[None]:
        """While the block waits on ``stream``, `end` ends that; raises ConnectionError after it."""
        with self._lock:
            if self._ended:
                raise ConnectionError("the link is closed")
            self._streams.add(stream)
        try:
            yield
        finally:
            with self._lock:
                self._streams.discard(stream)

    def connect(self, address: Address, timeout: float) -> socket.socket:
        """As socket.create_connection."""
        failure: OSError | None = None
        for family, kind, protocol, _, place in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
            stream = socket.socket(family, kind, protocol)
            stream.settimeout(timeout)
            try:
                with self.on(stream):
                    stream.connect(place)
            except BaseException as error:
                stream.close()
                if not isinstance(error, OSError):
                    raise
                failure = error
            else:
                return stream
        raise failure or OSError(f"{address[0]} has no address")
