"""A meeting point: whoever may meet somebody waits here until he comes, and then both are joined.

One thread serves all connections that are not joined yet, without ever waiting for one of them. Those that
have not proved whose they are have little time, and are few: where there are too many, the origin that has
the most loses its oldest. Who has proved to be one end of a pair has one place. What proofs cost is bounded,
too: see Turns.
"""

import errno
import resource
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple

from cryptography import x509

from flaremesh.meeting import knock
from flaremesh.meeting.doorman import Doorman
from flaremesh.meeting.figures import Figures
from flaremesh.meeting.forwarder import Forwarder, Pair
from flaremesh.meeting.knock import Knock
from flaremesh.meeting.refusal import Reason, Refused
from flaremesh.meeting.turns import Turns, origin

KNOCK_SECONDS: Final = 5.0
"""So long may it take to prove whose a connection is."""

WAITING_SECONDS: Final = 600.0
"""So long is the other end waited for; then who waits is told, and may come again: so the dead leave."""

_UNPROVEN: Final = 1024  # connections at a time, with up to 17 KB each
_SHARE: Final = 0.25  # of the time, for proofs: 0.6 ms each, so some 400 a second
_ACCEPTED: Final = 16  # at once, before others have their turn
_SHORTAGE_SECONDS: Final = 0.1  # between looks for a free file descriptor
_BACKLOG: Final = 4096


class Place(NamedTuple):
    """Where one end of a pair waits.

    Attributes:
        pair: the run and the two sites.
        name: of the site that waits.
    """

    pair: Pair
    name: str


@dataclass(eq=False)
class _Caller:
    """A connection that has not proved whose it is.

    Attributes:
        connection: non-blocking.
        origin: where it comes from.
        deadline: when it is dropped, by ``time.monotonic``.
        data: what has come of what it says next.
        knock: what it has said first; None as long as that is not whole.
        nonce: that it has been sent.
        signature: of the nonce; None as long as it is not whole; then it waits for its turn.
    """

    connection: socket.socket
    origin: str
    deadline: float
    data: bytearray = field(default_factory=bytearray)
    knock: Knock | None = None
    nonce: bytes = b""
    signature: bytes | None = None


@dataclass(eq=False)
class _Waiting:
    """A connection whose other end has not come.

    Attributes:
        connection: non-blocking.
        place: whose it is.
        deadline: when it is sent away, by ``time.monotonic``.
    """

    connection: socket.socket
    place: Place
    deadline: float


def listen(port: int) -> socket.socket:
    """A socket for a meeting point, on all addresses of this machine; raises OSError where there is none."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
    return socket.create_server(("", port), backlog=_BACKLOG)


def allow_many_files() -> None:
    """Let this process open as many files as it may: a pair takes six, and whoever waits takes one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class MeetingPoint:
    """Joins until closed.

    Args:
        listening: belongs to the meeting point from now on.
        mesh: name of the mesh.
        root: certificate of the mesh's root.
        revoked: serial numbers of certificates that count no more, in decimal.

    Attributes:
        figures: what happens, in numbers.
    """

    def __init__(
        self, listening: socket.socket, mesh: str, root: x509.Certificate, revoked: Collection[str] = ()
    ):
        self.figures = Figures()
        self._doorman = Doorman(mesh, root, revoked)
        self._forwarder = Forwarder(self.figures)
        self._callers: dict[socket.socket, _Caller] = {}  # in the order in which they came
        self._of_origin: dict[str, dict[_Caller, None]] = {}  # likewise
        self._turns = Turns[_Caller](_SHARE)
        self._waiting: dict[Place, _Waiting] = {}  # in the order in which they came
        listening.setblocking(False)  # accept would block where the dialler is gone already
        self._listening = listening
        self._resume = 0.0  # when connections are accepted again
        self._selector = selectors.DefaultSelector()
        self._selector.register(listening, selectors.EVENT_READ)
        self._closed = threading.Event()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="meeting-point", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tell those who wait, and break what was joined."""
        self._closed.set()
        with suppress(OSError):  # closed
            self._wake.send(b"x")
        self._thread.join()
        self._forwarder.close()
        self._wake.close()
        self._woken.close()

    def _serve(self) -> None:
        while not self._closed.is_set():
            for key, _ in self._selector.select(self._patience()):
                if key.fileobj is self._listening:
                    self._accept()
                elif isinstance(key.data, _Caller) and key.data.connection in self._callers:
                    self._advance(key.data)  # unless a newcomer of this round has crowded it out
                elif isinstance(key.data, _Waiting) and self._waiting.get(key.data.place) is key.data:
                    self._interrupted(key.data)
            with self._turns.turn() as caller:
                if caller is not None:
                    self._prove(caller)
            self._look_at_the_clock()
        for caller in list(self._callers.values()):
            self._drop(caller, Reason.CLOSING)
        for waiting in list(self._waiting.values()):
            self._send_away(waiting, Reason.CLOSING)
        self._listening.close()
        self._selector.close()

    def _patience(self) -> float | None:
        now = time.monotonic()
        first = [caller.deadline - now for caller in islice(self._callers.values(), 1)]
        first += [waiting.deadline - now for waiting in islice(self._waiting.values(), 1)]
        if (turn := self._turns.seconds()) is not None:
            first.append(turn)
        if self._resume:
            first.append(self._resume - now)
        return max(0.0, min(first)) if first else None

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        while self._callers and (caller := next(iter(self._callers.values()))).deadline <= now:
            self._drop(caller, Reason.SILENT if caller.signature is None else Reason.OVERLOAD)
        while self._waiting and (waiting := next(iter(self._waiting.values()))).deadline <= now:
            self._send_away(waiting, Reason.ALONE)
        if self._resume and self._resume <= now:
            self._resume = 0.0
            self._selector.register(self._listening, selectors.EVENT_READ)

    # who has not proved whose he is

    def _accept(self) -> None:
        for _ in range(_ACCEPTED):
            try:
                connection, address = self._listening.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._make_room()
                return  # else nobody is there, or gone already
            try:
                connection.setblocking(False)
                _tune(connection)
                where = origin(address[0])
            except (OSError, ValueError):
                connection.close()
                continue
            if len(self._callers) >= _UNPROVEN:
                self._crowd_out()
            caller = _Caller(connection, where, time.monotonic() + KNOCK_SECONDS)
            self._callers[connection] = caller
            self._of_origin.setdefault(where, {})[caller] = None
            self._selector.register(connection, selectors.EVENT_READ, caller)
            self.figures.knocking += 1

    def _make_room(self) -> None:
        """There are no file descriptors left, or no memory for sockets."""
        if self._callers:
            self._crowd_out()
            return
        self._selector.unregister(self._listening)
        self._resume = time.monotonic() + _SHORTAGE_SECONDS

    def _crowd_out(self) -> None:
        most = max(self._of_origin.values(), key=len)
        # an honest site needs milliseconds, so the oldest is the least likely to be one
        self._drop(next(iter(most)), Reason.OVERLOAD)

    def _advance(self, caller: _Caller) -> None:
        """Go on as far as what has arrived allows."""
        try:
            piece = caller.connection.recv(knock.MOST_KNOCK_BYTES + 1 - len(caller.data))
            if not piece:
                raise ConnectionError
            caller.data += piece
            if caller.knock is None:
                caller.knock = knock.read_knock(caller.data)
                if caller.knock is None:
                    return
                caller.data.clear()
                caller.nonce = secrets.token_bytes(knock.NONCE_BYTES)
                caller.connection.send(knock.challenge(caller.nonce))  # the first bytes fit into the buffer
                return
            caller.signature = knock.read_proof(caller.data)
        except BlockingIOError:
            return
        except OSError:
            has_spoken = caller.knock is not None or caller.data
            self._drop(caller, Reason.MALFORMED if has_spoken else Reason.EMPTY)
            return
        except Refused as error:
            self._drop(caller, error.reason)
            return
        if caller.signature is not None:
            self._selector.unregister(caller.connection)  # it has nothing more to say
            self._turns.add(caller.origin, caller)

    def _prove(self, caller: _Caller) -> None:
        assert caller.knock is not None
        assert caller.signature is not None
        try:
            place = Place(*self._doorman.admit(caller.knock, caller.nonce, caller.signature))
        except Refused as error:
            self._drop(caller, error.reason)
            return
        self._forget(caller)
        self._meet(caller.connection, place)

    def _drop(self, caller: _Caller, reason: Reason) -> None:
        self._forget(caller)
        self._turn_away(caller.connection, reason)

    def _forget(self, caller: _Caller) -> None:
        del self._callers[caller.connection]
        others = self._of_origin[caller.origin]
        del others[caller]
        if not others:
            del self._of_origin[caller.origin]
        if caller.signature is None:
            self._selector.unregister(caller.connection)
        else:
            self._turns.remove(caller.origin, caller)
        self.figures.knocking -= 1

    # who has

    def _meet(self, connection: socket.socket, place: Place) -> None:
        """Join who has come with who waits for him, or let him wait."""
        if (before := self._waiting.get(place)) is not None:
            self._send_away(before, Reason.REPLACED)
        other = self._waiting.get(Place(place.pair, next(n for n in place.pair[1] if n != place.name)))
        if other is None:
            waiting = _Waiting(connection, place, time.monotonic() + WAITING_SECONDS)
            self._waiting[place] = waiting
            self._selector.register(connection, selectors.EVENT_READ, waiting)
            self.figures.waiting += 1
            return
        self._leave(other)
        ends = other.connection, connection
        try:
            for end in ends:
                end.send(knock.go())
        except OSError:  # who is gone has lost nothing, and the other one comes again
            for end in ends:
                end.close()
            return
        self._forwarder.join(place.pair, *ends)

    def _interrupted(self, waiting: _Waiting) -> None:
        """Who waits has nothing to say: he has left, or does not speak as he should."""
        try:
            left = not waiting.connection.recv(1)
        except BlockingIOError:
            return
        except OSError:
            left = True
        if left:
            self._leave(waiting)
            waiting.connection.close()
        else:
            self._send_away(waiting, Reason.MALFORMED)

    def _send_away(self, waiting: _Waiting, reason: Reason) -> None:
        self._leave(waiting)
        self._turn_away(waiting.connection, reason)

    def _leave(self, waiting: _Waiting) -> None:
        del self._waiting[waiting.place]
        self._selector.unregister(waiting.connection)
        self.figures.waiting -= 1

    def _turn_away(self, connection: socket.socket, reason: Reason) -> None:
        self.figures.refused[reason] += 1
        with suppress(OSError):
            connection.send(knock.refusal(reason))
            connection.recv(1 << 16)  # closing on unread data would destroy what was sent
        connection.close()


def _tune(connection: socket.socket) -> None:
    """Let small messages leave at once, and find out within ten seconds that an end is gone.

    The other end cannot find out by itself: its own connection, to here, is whole.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 4)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000)
