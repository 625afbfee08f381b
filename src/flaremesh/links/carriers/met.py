"""Connections through a meeting point: both ends dial it, and it joins what comes from the ends of a pair.

The end that leads dials when it wants a connection. The one that follows keeps a connection waiting there, as
long as the pair has no better one, so that the other one finds it at any time.
"""

import logging
import math
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

from typing_extensions import override

from flaremesh.hosts import at
from flaremesh.links import tunnel
from flaremesh.links.attempts import Attempts
from flaremesh.links.carrier import Address, Arrival, Carrier
from flaremesh.links.channel import tune
from flaremesh.links.credentials import Credentials
from flaremesh.links.errors import LinkError
from flaremesh.meeting.knock import await_go, introduce
from flaremesh.meeting.refusal import Reason, Refused
from flaremesh.topology.links import LinkKind

_log = logging.getLogger(__name__)

_KNOCK_SECONDS: Final = 3.0  # until a meeting point has heard who waits
_GO_SECONDS: Final = 1200.0  # it sends away who has waited for half of that
_BACKOFF_SECONDS: Final = 0.05  # after the first failure; after each further one twice as long
_BACKOFF_SECONDS_MAX: Final = 2.0
_OFTEN_SECONDS: Final = 1.0  # a peer that comes more often is taken for a failure: it may be none at all

Tickets: TypeAlias = Callable[[str], bytes | None]
"""The ticket to meet a neighbour, as long as it counts; None where there is none. Called from any thread."""


@dataclass(frozen=True)
class Meeting:
    """Where a run's pairs meet.

    Attributes:
        address: of the meeting point.
        ticket: see Tickets.
    """

    address: Address
    ticket: Tickets


class MetCarrier(Carrier):
    """One site's connections to a meeting point.

    Args:
        site: name of the site.
        run_id: the run.
        meeting: where its pairs meet.
        credentials: of the site in this run.
        followed: the neighbours that lead.
        arrive: called with each stream that a neighbour has dialled.
        is_wanted: whether a stream from a neighbour would be of use now.
        attempts: of the link.
    """

    kind = LinkKind.MET
    is_forwarded = True

    def __init__(
        self,
        site: str,
        run_id: str,
        meeting: Meeting,
        credentials: Credentials,
        followed: Collection[str],
        arrive: Arrival,
        is_wanted: Callable[[str], bool],
        attempts: Attempts | None = None,
    ):
        self._attempts = attempts or Attempts()
        self._site, self._run_id, self._meeting, self._credentials = site, run_id, meeting, credentials
        self._waiters = [_Waiter(self, peer, arrive, is_wanted) for peer in sorted(followed)]

    @override
    def open(self, addresses: Mapping[str, Address]) -> None:
        for waiter in self._waiters:
            waiter.start()

    @override
    def inability(self, peer: str) -> str | None:
        return None if self._meeting.ticket(peer) is not None else "it has no ticket for the meeting point"

    @override
    def head_start(self, peer: str, *, leads: bool) -> float | None:
        return 0.0 if leads else None

    @override
    def dial(self, peer: str, timeout: float) -> socket.socket:
        deadline = time.monotonic() + timeout
        stream = self.knock(peer, timeout)
        try:
            with self._attempts.on(stream):
                await_go(stream, max(0.01, deadline - time.monotonic()))
        except TimeoutError:
            stream.close()
            # more than that it took too long
            raise ConnectionError(
                f"{peer} has not come to the meeting point{self.whereabouts(peer)}"
            ) from None
        except Refused as refused:
            stream.close()
            raise self.error_of(refused) from None
        except BaseException:
            stream.close()
            raise
        return stream

    def knock(self, peer: str, timeout: float) -> socket.socket:
        """A connection to the meeting point, which knows whose it is; raises OSError where there is none."""
        ticket = self._meeting.ticket(peer)
        if ticket is None:
            raise ConnectionError("there is no ticket for the meeting point")
        deadline = time.monotonic() + timeout
        try:
            stream = tunnel.connect(self._meeting.address, timeout, self._attempts)
        except ConnectionRefusedError:  # which says nothing of the peer
            raise ConnectionError(f"nobody listens at the meeting point{self.whereabouts(peer)}") from None
        except TimeoutError:
            raise ConnectionError(self._is_silent()) from None
        try:
            tune(stream)
            with self._attempts.on(stream):
                introduce(
                    stream,
                    ticket,
                    self._credentials,
                    self._run_id,
                    (self._site, peer),
                    self._site,
                    max(0.01, deadline - time.monotonic()),
                )
        except Refused as refused:
            stream.close()
            raise self.error_of(refused) from None
        except TimeoutError:
            stream.close()
            raise ConnectionError(self._is_silent()) from None
        except (LinkError, ValueError) as error:  # credentials that are gone, or a ticket that cannot be one
            stream.close()
            raise ConnectionError(str(error)) from None
        except BaseException:
            stream.close()
            raise
        return stream

    @override
    def whereabouts(self, peer: str) -> str:
        host, port = self._meeting.address
        return f" at {at(host, port)}"

    @override
    def notice(self) -> None:
        for waiter in self._waiters:
            waiter.rouse()

    @override
    def close(self) -> None:
        for waiter in self._waiters:
            waiter.stop()
        for waiter in self._waiters:
            waiter.join()

    def _is_silent(self) -> str:
        return f"the meeting point{self.whereabouts('')} does not answer in time"

    def error_of(self, refused: Refused) -> ConnectionError:
        """What a refusal of the meeting point means here."""
        return ConnectionError(
            f"the meeting point{self.whereabouts('')} refuses this site ({refused.reason}): "
            + _REMEDIES.get(refused.reason, "its kit, the ticket and the mesh's root must be of one mesh")
        )


_PASSING: Final = "it is dialled again"
_REMEDIES: Final = {
    Reason.ALONE: _PASSING,
    Reason.REPLACED: _PASSING,
    Reason.CLOSING: _PASSING,
    Reason.OVERLOAD: _PASSING,
    Reason.SILENT: _PASSING,
    Reason.STALE: "the server has sent no newer ticket, or a clock is wrong",
    Reason.VERSION: "the two have different versions of flaremesh",
}


class _Waiter:
    """Keeps a connection waiting for a neighbour that leads, in a thread of its own.

    Args:
        carrier: the site's.
        peer: the neighbour.
        arrive: see MetCarrier.
        is_wanted: see MetCarrier.
    """

    def __init__(self, carrier: MetCarrier, peer: str, arrive: Arrival, is_wanted: Callable[[str], bool]):
        self._carrier, self._peer, self._arrive, self._is_wanted = carrier, peer, arrive, is_wanted
        self._closed = threading.Event()
        self._cause = ""  # of the last failure
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)
        self._thread = threading.Thread(target=self._keep, name=f"link-meet-{peer}", daemon=True)

    def start(self) -> None:
        """Wait from now on."""
        self._thread.start()

    def rouse(self) -> None:
        """See again whether a stream is wanted."""
        with suppress(OSError):  # full, or closed
            self._wake.send(b"x")

    def stop(self) -> None:
        """Wait no more."""
        self._closed.set()
        self.rouse()

    def join(self) -> None:
        """Free all resources, after `stop`."""
        if self._thread.ident is not None:
            self._thread.join()
        self._wake.close()
        self._woken.close()

    def _goes_on(self) -> bool:
        return not self._closed.is_set() and self._is_wanted(self._peer)

    def _keep(self) -> None:
        pause, came = _BACKOFF_SECONDS, -math.inf
        while not self._closed.is_set():
            if not self._is_wanted(self._peer):
                self._rest(None)
                continue
            try:
                if not self._wait_once():
                    continue
                before, came = came, time.monotonic()
                if came - before > _OFTEN_SECONDS:
                    pause = _BACKOFF_SECONDS
                    continue
            except OSError as error:
                self._note(error)
            # not all at once, when a meeting point is back
            self._rest(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _BACKOFF_SECONDS_MAX)

    def _note(self, failure: Exception) -> None:
        """Say once why it does not succeed."""
        if (cause := str(failure)) != self._cause:
            self._cause = cause
            _log.info("%s is not waited for at the meeting point: %s", self._peer, cause)

    def _wait_once(self) -> bool:
        """Whether the peer has come; raises OSError where it is not waited for any more."""
        stream = self._carrier.knock(self._peer, _KNOCK_SECONDS)
        try:
            has_come = await_go(stream, _GO_SECONDS, lambda seconds: self._has_answer(stream, seconds))
        except Refused as refused:
            stream.close()
            raise self._carrier.error_of(refused) from None
        except BaseException:
            stream.close()
            raise
        if not has_come:
            stream.close()
            return False
        self._arrive(stream, self._carrier.kind, self._peer)
        return True

    def _has_answer(self, stream: socket.socket, seconds: float) -> bool:
        """Wait for an answer; returns False once none is wanted any more."""
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(stream, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while self._goes_on():
            ready = dict(poll.poll(1000 * max(0.0, deadline - time.monotonic())))
            if stream.fileno() in ready or not ready:
                return True
            self._calm()
        return False

    def _rest(self, seconds: float | None) -> None:
        """Until something changes, or ``seconds`` are over; None for any time."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        poll.poll(None if seconds is None else 1000 * seconds)
        self._calm()

    def _calm(self) -> None:
        with suppress(BlockingIOError):
            self._woken.recv(4096)
