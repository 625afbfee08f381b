"""What bytes are carried in from socket to socket: a pipe in the kernel, or a buffer where that cannot."""

import errno
import fcntl
import os
import socket
from typing import Final, Protocol

PIECE_BYTES: Final = 1 << 20
"""So many are taken at once: with fewer, each costs more (measured: a quarter of it, half as much again)."""

_BUFFER_BYTES: Final = 1 << 18
_CAN_SPLICE: Final = hasattr(os, "splice")  # Linux


class Vessel(Protocol):
    """Takes bytes from one socket, and gives them to another; both are non-blocking.

    Attributes:
        held: bytes that are in it.
    """

    held: int

    def fill(self, source: socket.socket) -> int:
        """Take what has come; 0 where ``source`` has ended. Raises BlockingIOError where nothing has come."""

    def drain(self, sink: socket.socket) -> int:
        """Give away what ``sink`` takes, return how much; raises BlockingIOError where it takes nothing."""

    def close(self) -> None:
        """Forget what is held."""


class Pipe(Vessel):
    """The bytes stay in the kernel.

    Raises:
        OSError: there are no file descriptors left.
    """

    def __init__(self) -> None:
        self.held = 0
        self._out, self._in = os.pipe()
        try:
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, PIECE_BYTES)  # type: ignore[attr-defined, unused-ignore]  # Linux
        except OSError as error:
            if error.errno != errno.EPERM:  # the user has many such pipes: this one keeps its 64 KiB
                self.close()
                raise

    def fill(self, source: socket.socket) -> int:
        """See Vessel."""
        count = os.splice(source.fileno(), self._in, PIECE_BYTES, flags=_FLAGS)
        self.held += count
        return count

    def drain(self, sink: socket.socket) -> int:
        """See Vessel."""
        count = os.splice(self._out, sink.fileno(), self.held, flags=_FLAGS)
        self.held -= count
        return count

    def close(self) -> None:
        """See Vessel."""
        os.close(self._out)
        os.close(self._in)


class Buffer(Vessel):
    """The bytes come into this process."""

    def __init__(self) -> None:
        self.held = 0
        self._memory = memoryview(bytearray(_BUFFER_BYTES))
        self._start = 0

    def fill(self, source: socket.socket) -> int:
        """See Vessel."""
        self._start, self.held = 0, source.recv_into(self._memory)
        return self.held

    def drain(self, sink: socket.socket) -> int:
        """See Vessel."""
        count = sink.send(self._memory[self._start : self._start + self.held])
        self._start, self.held = self._start + count, self.held - count
        return count

    def close(self) -> None:
        """See Vessel."""


class Vessels:
    """The empty ones: a connection has one only while bytes are under way, so that idle ones need none."""

    _MOST: Final = 64  # that are kept

    def __init__(self) -> None:
        self._empty: list[Vessel] = []
        self._pipes = _CAN_SPLICE

    def take(self) -> Vessel:
        """An empty one."""
        if self._empty:
            return self._empty.pop()
        if self._pipes:
            try:
                return Pipe()
            except OSError:  # too many open files
                pass
        return Buffer()

    def give_back(self, vessel: Vessel) -> None:
        """Nobody needs it any more, empty or not."""
        if vessel.held or len(self._empty) >= self._MOST:
            vessel.close()
        else:
            self._empty.append(vessel)

    def fill(self, source: socket.socket) -> Vessel | None:
        """One with what has come from ``source``; None where that has ended; raises as `Vessel.fill`."""
        vessel = self.take()
        try:
            count = vessel.fill(source)
        except OSError as error:
            self.give_back(vessel)
            if isinstance(vessel, Pipe) and error.errno in (errno.EINVAL, errno.ENOSYS):
                self._pipes = False  # a kernel that has the call, but not between sockets
                self.close()
                return self.fill(source)
            raise
        if not count:
            self.give_back(vessel)
            return None
        return vessel

    def close(self) -> None:
        """Free those that are empty."""
        for vessel in self._empty:
            vessel.close()
        self._empty.clear()


_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK if _CAN_SPLICE else 0
