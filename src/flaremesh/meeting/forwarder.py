"""Passes bytes on between connections that were joined: one thread for all of them."""

import selectors
import socket
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from flaremesh.meeting.figures import Figures
from flaremesh.meeting.vessels import Vessel, Vessels

MOST_OF_PAIR: Final = 2
"""So many joined connections may a pair have: it makes a second one beside one that is silent."""

Pair: TypeAlias = tuple[str, tuple[str, str]]
"""A run, and the names of two sites."""


@dataclass(eq=False)
class _Way:
    """One direction.

    Attributes:
        source: whence bytes come.
        sink: where they go.
        vessel: has bytes that ``sink`` has not taken yet; None where there are none.
        is_over: the source has ended, and the sink knows.
    """

    source: socket.socket
    sink: socket.socket
    vessel: Vessel | None = None
    is_over: bool = False


@dataclass(eq=False)
class _Joined:
    """Two connections.

    Attributes:
        pair: whose they are.
        ways: both directions; the source of each is the sink of the other.
        interest: what is waited for, by connection.
    """

    pair: Pair
    ways: tuple[_Way, _Way]
    interest: dict[socket.socket, int] = field(default_factory=dict)


class _Ready(NamedTuple):
    """What the selector tells of a connection: the way out of it, and the one into it."""

    joined: _Joined
    outward: _Way
    inward: _Way


class Forwarder:
    """Passes on until closed.

    Half-closing is passed on, too. A connection in which nothing passes stays: whether the machine at its end
    still exists is for keep-alive to find out.

    Args:
        figures: its ``joined``, ``joinings`` and ``passed_bytes`` are written here.
    """

    def __init__(self, figures: Figures):
        self._figures = figures
        self._vessels = Vessels()
        self._pairs: dict[Pair, list[_Joined]] = {}
        self._arrived: deque[tuple[Pair, socket.socket, socket.socket]] = deque()
        self._selector = selectors.DefaultSelector()
        self._closed = False
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="meeting-forwarder", daemon=True)
        self._thread.start()

    def join(self, pair: Pair, first: socket.socket, second: socket.socket) -> None:
        """Pass on what comes from one of two connections to the other, and close them in the end."""
        self._arrived.append((pair, first, second))
        self._rouse()

    def close(self) -> None:
        """Break all connections."""
        self._closed = True
        self._rouse()
        self._thread.join()
        self._wake.close()
        self._woken.close()

    def _rouse(self) -> None:
        with suppress(OSError):  # full, or closed
            self._wake.send(b"x")

    def _serve(self) -> None:
        while not self._closed:
            for key, events in self._selector.select():
                if isinstance(key.data, _Ready):
                    self._advance(key.data, events)
                else:
                    with suppress(BlockingIOError):
                        self._woken.recv(4096)
            while self._arrived:
                self._begin(*self._arrived.popleft())
        for joined in [joined for each in self._pairs.values() for joined in each]:
            self._part(joined)
        for _, first, second in self._arrived:
            first.close()
            second.close()
        self._vessels.close()
        self._selector.close()

    def _begin(self, pair: Pair, first: socket.socket, second: socket.socket) -> None:
        others = self._pairs.setdefault(pair, [])
        joined = _Joined(pair, (_Way(first, second), _Way(second, first)))
        others.append(joined)
        self._figures.joined += 1
        self._figures.joinings += 1
        if len(others) > MOST_OF_PAIR:
            self._part(others[0])
        try:
            self._attend(joined)
        except OSError:  # the system watches no more connections
            self._part(joined)

    def _advance(self, ready: _Ready, events: int) -> None:
        """Move what can be moved now, once, so that every connection has its turn."""
        joined = ready.joined
        if not joined.interest:
            return  # it was parted in this round
        try:
            if events & selectors.EVENT_WRITE:
                self._drain(ready.inward)
            if events & selectors.EVENT_READ and ready.outward.vessel is None and not ready.outward.is_over:
                self._fill(ready.outward)
        except OSError:  # one end is gone, and so has nothing to say to the other
            self._part(joined)
            return
        if events == selectors.EVENT_READ and ready.outward.vessel is None and not ready.outward.is_over:
            return  # all that had come is gone, and nothing else is waited for than before
        if all(way.is_over for way in joined.ways):
            self._part(joined)
        else:
            self._attend(joined)

    def _fill(self, way: _Way) -> None:
        try:
            way.vessel = self._vessels.fill(way.source)
        except BlockingIOError:
            return
        if way.vessel is None:
            way.is_over = True
            way.sink.shutdown(socket.SHUT_WR)
        else:
            self._drain(way)

    def _drain(self, way: _Way) -> None:
        if way.vessel is None:
            return
        with suppress(BlockingIOError):
            self._figures.passed_bytes += way.vessel.drain(way.sink)
        if not way.vessel.held:
            self._vessels.give_back(way.vessel)
            way.vessel = None

    def _attend(self, joined: _Joined) -> None:
        """Wait for what is of use: bytes where none are held, room where some are."""
        one, other = joined.ways
        for outward, inward in ((one, other), (other, one)):
            connection = outward.source
            reads = outward.vessel is None and not outward.is_over
            events = (selectors.EVENT_READ if reads else 0) | (selectors.EVENT_WRITE if inward.vessel else 0)
            before = joined.interest.setdefault(connection, 0)
            if events == before:
                continue
            ready = _Ready(joined, outward, inward)
            if not events:
                self._selector.unregister(connection)
            elif before:
                self._selector.modify(connection, events, ready)
            else:
                self._selector.register(connection, events, ready)
            joined.interest[connection] = events

    def _part(self, joined: _Joined) -> None:
        others = self._pairs[joined.pair]
        others.remove(joined)
        if not others:
            del self._pairs[joined.pair]
        self._figures.joined -= 1
        for way in joined.ways:
            if joined.interest.pop(way.source, 0):
                self._selector.unregister(way.source)
            way.source.close()
            if way.vessel is not None:
                self._vessels.give_back(way.vessel)
                way.vessel = None
