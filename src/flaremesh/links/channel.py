"""One connection of a pair: frames out and in, without ever waiting for the other end."""

import os
import select
import socket
import ssl
import struct
import time
from collections import deque
from contextlib import suppress

from flaremesh.links.frame import HEADER_BYTES, Frame, announced, unpack
from flaremesh.links.link import Payload
from flaremesh.topology.links import LinkKind

LARGE_BYTES = 1 << 15
"""From this length on, a message is left to the pair's thread, and read into memory that is used again."""

_SCRATCH_BYTES = 1 << 16
_PIECE_BYTES = 1 << 18  # that are encrypted at once
_FILL_BYTES = 1 << 18  # of a large message that are read at once
_SPIN_SECONDS = 1e-4  # for which a sleep is put off, where the last one was not much longer
_SOON_SECONDS = 2e-4
_yield = getattr(os, "sched_yield", lambda: None)  # macOS has none
_GONE_MILLISECONDS = 10_000  # a connection whose bytes stay unacknowledged for so long is broken
_FAR_MICROSECONDS = 1000  # of a round trip; below, pacing costs more than losses do
_FAR_CONGESTION = b"bbr"
_ROUND_TRIP = struct.Struct("=68xI")  # tcpi_rtt of struct tcp_info
_INFO_BYTES = _ROUND_TRIP.size


def tune(connection: socket.socket) -> None:
    """Let small messages leave at once, notice soon that the peer is gone, and fill a line that is long.

    Args:
        connection: TCP's, with the other end.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 4)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _GONE_MILLISECONDS)
        (trip,) = _ROUND_TRIP.unpack_from(
            connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        )
        if trip >= _FAR_MICROSECONDS:
            # cubic, for which a loss means a full network, leaves a third idle where both directions are busy
            with suppress(OSError):  # the kernel has none, or does not allow it
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _FAR_CONGESTION)


class Channel:
    """A connection whose two ends have greeted each other; used by one thread at a time.

    Args:
        connection: TLS, or a plain one in NVFlare's simulator, which has no kits.
        kind: what carries it.

    Attributes:
        kind: the same.
        error: what ended it; None while it goes on.
    """

    def __init__(self, connection: socket.socket, kind: LinkKind):
        connection.setblocking(False)
        self.kind = kind
        self.error: Exception | None = None
        self._connection = connection
        self._tls = connection if isinstance(connection, ssl.SSLSocket) else None
        self._reading = select.poll()
        self._reading.register(connection, select.POLLIN)
        self._unwritten: deque[memoryview] = deque()
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._start = self._end = 0  # what lies between has been read and not used
        self._message: memoryview | None = None  # the large one that is being read
        self._filled = 0  # bytes of it
        self._is_soon = False  # whether what was waited for last came soon

    # what goes out

    @property
    def is_full(self) -> bool:
        """Whether there is more to write than the connection took."""
        return bool(self._unwritten)

    def put(self, *buffers: Payload) -> None:
        """Let `write` write these bytes next; they must not be changed until it has."""
        self._unwritten.extend(memoryview(buffer).cast("B") for buffer in buffers if len(buffer))

    def write(self) -> bool:
        """Write as much as the connection takes; returns whether it took any."""
        moved = False
        try:
            while self._unwritten:
                self._write_piece()
                moved = True
        except (ssl.SSLWantWriteError, BlockingIOError):
            pass
        return moved

    def _write_piece(self) -> None:
        piece = self._unwritten[0]
        count = self._connection.send(piece[:_PIECE_BYTES])
        if count < len(piece):
            self._unwritten[0] = piece[count:]
        else:
            self._unwritten.popleft()

    # what comes in

    def frame(self) -> Frame | None:
        """The next header, once all of a small message has come, too; raises FrameError where it is none."""
        left = self._end - self._start
        if left < HEADER_BYTES:
            return None
        length = announced(self._scratch, self._start)
        if length < LARGE_BYTES and left < HEADER_BYTES + length:
            return None
        return unpack(self._scratch[self._start : self._start + HEADER_BYTES])

    def skip_header(self) -> None:
        """Go on after the header that `frame` returned."""
        self._start += HEADER_BYTES

    def receive_into(self, message: memoryview) -> None:
        """Read what follows into ``message``; see `has_filled`."""
        self._message = message
        self._filled = min(len(message), self._end - self._start)
        message[: self._filled] = self._scratch[self._start : self._start + self._filled]
        self._start += self._filled

    def has_filled(self) -> bool:
        """Whether the message that is being read is whole; if so, it is forgotten here."""
        if self._message is None or self._filled < len(self._message):
            return False
        self._message = None
        return True

    def fill(self) -> int:
        """Read what is there, some records at most; returns how many bytes it was.

        Raises:
            OSError: the connection has ended.
        """
        message = self._message
        if message is None:
            left = self._end - self._start
            self._scratch[:left] = self._scratch[self._start : self._end]
            self._start, self._end = 0, left
            count = self._read_into(self._scratch[left:])
            self._end += count
            return count
        before, end = self._filled, min(self._filled + _FILL_BYTES, len(message))
        # TLS gives a record at a time: whatever else is done for each adds up
        while self._filled < end and (count := self._read_into(message[self._filled :])):
            self._filled += count
        return self._filled - before

    def _read_into(self, target: memoryview) -> int:
        try:
            count = self._connection.recv_into(target)
        except (ssl.SSLWantReadError, BlockingIOError):
            return 0
        if not count:
            raise ConnectionError("the peer hung up")
        return count

    def is_ready(self, timeout: float) -> bool:
        """Whether within ``timeout`` seconds bytes come, or it ends, or it takes what is unwritten."""
        if self._tls is not None and self._tls.pending():
            return True
        if not self._unwritten:
            began = time.monotonic()
            ready = (self._is_soon and self._comes_soon(began)) or bool(self._reading.poll(1000 * timeout))
            self._is_soon = time.monotonic() - began < _SOON_SECONDS
            return ready
        poll = select.poll()
        poll.register(self._connection, select.POLLIN | select.POLLOUT)
        return bool(poll.poll(1000 * timeout))

    def _comes_soon(self, began: float) -> bool:
        """Look again and again for a moment: to sleep and be woken takes as long, and as much of a core."""
        while time.monotonic() - began < _SPIN_SECONDS:
            if self._reading.poll(0):
                return True
            _yield()
        return False

    def wait(
        self, woken: socket.socket, timeout: float | None, *, reading: bool, writing: bool = True
    ) -> None:
        """Until it takes what is unwritten, or something comes, or ``woken`` is readable.

        Args:
            woken: what others write to.
            timeout: in seconds; None for any time.
            reading: whether what comes is waited for.
            writing: whether that it takes more is waited for.
        """
        poll = select.poll()
        poll.register(woken, select.POLLIN)
        events = (select.POLLIN if reading else 0) | (select.POLLOUT if writing and self._unwritten else 0)
        if events:
            poll.register(self._connection, events)
        poll.poll(None if timeout is None else 1000 * timeout)

    # the end

    def require_peer(self) -> None:
        """Raise OSError where the connection was reset, which is not noticed while nothing is read."""
        self._connection.getpeername()

    def hang_up(self) -> None:
        """End it; a thread that is using it gets an error."""
        with suppress(OSError):
            # SSLSocket.shutdown would let the other thread go on without TLS
            socket.socket.shutdown(self._connection, socket.SHUT_RDWR)

    def drain(self, seconds: float) -> None:
        """Write the rest and let the peer hang up: closing on unread data destroys what it has not read."""
        deadline = time.monotonic() + seconds
        with suppress(OSError):
            while self._unwritten and (left := deadline - time.monotonic()) > 0:
                self._connection.settimeout(left)
                self._write_piece()
            socket.socket.shutdown(self._connection, socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self._connection.settimeout(left)
                if not self._connection.recv(_SCRATCH_BYTES):
                    break

    def close(self) -> None:
        """Free the connection; nobody uses it any more."""
        self._connection.close()
