"""A meeting point that is not what it should be: it meddles before an honest one, or speaks in its place."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from flaremesh.meeting import knock

Address: TypeAlias = tuple[str, int]
MEDDLES = ("garbles", "changes", "replays", "cuts")
SPEAKS = ("mixes", "echoes", "silent", "garbage")
_SAID_BYTES = 1 + knock.NONCE_BYTES + 1  # by a meeting point, until both ends go on
_LATE_BYTES = 20_000  # the ends have greeted each other, and exchange
_SECONDS = 10.0


@dataclass
class _Way:
    """Of one connection."""

    how: str
    said: int = 0  # bytes, by the honest meeting point
    passed: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})  # since both ends go on


class Meddler:
    """Meddles until it is closed.

    Args:
        point: address of the honest meeting point.
        address: its own, by default any port on loopback.

    Attributes:
        point, address: the same.
        struck: how often it has done what it should not.
    """

    def __init__(self, point: Address, address: Address = ("127.0.0.1", 0)):
        self.point, self._how, self.struck = point, "passes", 0
        self._listening = socket.create_server(address, backlog=1024)
        self.address: Address = self._listening.getsockname()
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._waiting: socket.socket | None = None
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def strike(self, how: str) -> None:
        """From now on do as ``how`` says, one of MEDDLES, SPEAKS, or ``passes``; cut what there is."""
        with self._lock:
            self._how, self.struck = how, 0
            cut, self._open = self._open, []
            self._waiting = None
        for each in cut:
            _hang_up(each)

    def close(self) -> None:
        """Hang up, and take no more connections."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()
        self.strike("passes")

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            near.settimeout(_SECONDS)
            with self._lock:
                how = self._how
                self._open.append(near)
            part = self._speak if how in SPEAKS else self._pass
            threading.Thread(target=_unless_gone, args=(part, near, how), daemon=True).start()

    # before an honest one

    def _pass(self, near: socket.socket, how: str) -> None:
        far = socket.create_connection(self.point, _SECONDS)
        with self._lock:
            self._open.append(far)
        for each in (near, far):
            each.settimeout(None)
        way = _Way(how)
        up = threading.Thread(target=_unless_gone, args=(self._pump, near, far, way, True), daemon=True)
        up.start()
        _unless_gone(self._pump, far, near, way, False)
        up.join()

    def _pump(self, source: socket.socket, target: socket.socket, way: _Way, is_up: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(self._meddled(data, way, is_up))
        finally:
            _hang_up(source)
            _hang_up(target)

    def _meddled(self, data: bytes, way: _Way, is_up: bool) -> bytes:
        if way.said < _SAID_BYTES:
            way.said += 0 if is_up else len(data)
            return data
        way.passed[is_up] += len(data)
        is_late = way.passed[is_up] > _LATE_BYTES
        if way.how == "passes" or not (is_late or way.how == "garbles"):
            return data
        self.struck += 1
        if way.how == "cuts":
            raise ConnectionAbortedError
        return data + data if way.how == "replays" else data[:-1] + bytes([data[-1] ^ 1])

    # in its place

    def _speak(self, near: socket.socket, how: str) -> None:
        if how == "silent":
            self.struck += 1
            while near.recv(1 << 16):
                pass
            return
        _hear(near, knock.read_knock)
        near.sendall(knock.challenge(bytes(knock.NONCE_BYTES)))
        _hear(near, knock.read_proof)
        if how == "mixes":
            with self._lock:
                other, self._waiting = self._waiting, None if self._waiting else near
            if other is not None:
                self._join(near, other)
            return
        near.sendall(knock.go())
        self.struck += 1
        if how == "garbage":
            near.sendall(bytes(range(256)) * 100)
            _hang_up(near)
        while data := near.recv(1 << 16):
            near.sendall(data)

    def _join(self, one: socket.socket, other: socket.socket) -> None:
        """Whatever pairs they belong to."""
        self.struck += 1
        for each in (one, other):
            each.sendall(knock.go())
            each.settimeout(None)
        way = _Way("passes", _SAID_BYTES)
        back = threading.Thread(target=_unless_gone, args=(self._pump, other, one, way, False), daemon=True)
        back.start()
        self._pump(one, other, way, True)


def _hear(connection: socket.socket, read: Callable[[bytes], object]) -> None:
    data = b""
    while read(data) is None:
        if not (piece := connection.recv(1 << 16)):
            raise ConnectionError
        data += piece


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _unless_gone(part: Callable[..., None], *arguments: object) -> None:
    with suppress(OSError):
        part(*arguments)
