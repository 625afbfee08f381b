"""Whether two neighbours can make a connection, and how fast it is, tried while no run uses it.

Between runs nobody listens at a site. So the agent of the site that is dialled opens a port of its range for
some seconds, or waits as long at the meeting point or behind the relay, and the agent of the one that dials
makes a connection there as a run would. It may measure it, or hang up.
"""

import socket
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from typing import ClassVar, NamedTuple

from typing_extensions import override

from flaremesh.hosts import at
from flaremesh.links import LinkError, LinkKind, speed
from flaremesh.links.carrier import Address, Arrival, Carrier
from flaremesh.links.carriers.direct import DirectCarrier, bind
from flaremesh.links.carriers.met import Meeting, MetCarrier
from flaremesh.links.carriers.relay import RelayCarrier
from flaremesh.links.credentials import Credentials
from flaremesh.links.dialler import Dialler
from flaremesh.links.errors import LinkRefused
from flaremesh.links.frame import Greeting, Word, pack_greeting, run_digest
from flaremesh.links.greeting import End
from flaremesh.links.link import Payload
from flaremesh.links.reception import Reception
from flaremesh.links.tls import cause_of
from flaremesh.meeting.ticket import TRIAL

_OPEN_SECONDS = 7.0  # a dialler tries for 5 s
_DIAL_SECONDS = 5.0
_ATTEMPT_SECONDS = 3.0
_PAUSE_SECONDS = 0.2  # between two attempts


class Invitation(NamedTuple):
    """Where and for which run to make a connection.

    Attributes:
        port: it is open for some seconds.
        run: a made-up run id, for this probe alone.
    """

    port: int
    run: str


class _Trial(End):
    """An end that is content once the other one has agreed.

    Args:
        site, peer: the two.
        run: the invitation's.
        use: called with the connection, whose it is from then on.
        kind: what carries it.
    """

    def __init__(self, site: str, peer: str, run: str, use: Callable[[socket.socket], None], kind: LinkKind):
        self.peer, self.leads, self.carriers = peer, site < peer, [kind]
        self._run, self._use = run_digest(run), use

    @property
    def received(self) -> int:
        """Nothing: no run has sent anything."""
        return 0

    @override
    def adopt(self, connection: socket.socket, kind: LinkKind, heard: Greeting) -> None:
        with suppress(OSError):
            connection.setblocking(True)
            if self.leads:
                connection.sendall(pack_greeting(Greeting(Word.ADOPT), self._run))
        self._use(connection)


class ProbeListener:
    """Opens one port while neighbours are expected; closes it when all came or their time is over.

    Args:
        site: name of this site.
        host: name under which neighbours dial.
        ports: inclusive range of ports, of which the first free one is taken.
        credentials: of this site.
        is_idle: whether neighbours may measure now; else they learn only that there is a link.
    """

    def __init__(
        self,
        site: str,
        host: str,
        ports: tuple[int, int],
        credentials: Credentials,
        is_idle: Callable[[], bool] = lambda: True,
    ):
        self._site, self._host, self._ports, self._credentials = site, host, ports, credentials
        self._is_idle = is_idle
        self._changed = threading.Condition()
        self._expected: dict[str, float] = {}  # by name: until when
        self._ends: dict[str, End] = {}
        self._reception: Reception | None = None
        self._invitation = Invitation(0, "")
        self._closing = False

    def expect(self, peer: str) -> Invitation:
        """Let ``peer`` dial once within some seconds.

        Raises:
            LinkError: no port of the range is free, or the certificate cannot be used.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._closing)
            if self._reception is None:
                self._open()
            run = self._invitation.run
            trial = _Trial(
                self._site, peer, run, lambda stream: self._has_come(trial, stream), LinkKind.DIRECT
            )
            self._ends[peer] = trial
            self._expected[peer] = time.monotonic() + _OPEN_SECONDS
            return self._invitation

    def _open(self) -> None:
        run = f"probe {uuid.uuid4()}"
        self._ends = {}
        listening = bind(self._host, self._ports)
        # the site that dials learns the reason of a refusal by itself
        self._reception = Reception(self._ends, self._credentials, run_digest(run), lambda name, reason: None)
        self._reception.listen(listening)
        self._invitation = Invitation(int(listening.getsockname()[1]), run)
        threading.Thread(target=self._serve, args=[self._reception], name="probe", daemon=True).start()

    def _has_come(self, trial: _Trial, stream: socket.socket) -> None:
        if self._is_idle():
            _let_measure(stream, trial.peer)
        else:
            stream.close()
        with self._changed:
            if self._ends.get(trial.peer) is trial:  # it may be expected again already
                self._ends.pop(trial.peer)
                self._expected.pop(trial.peer, None)
                self._changed.notify_all()

    def _serve(self, reception: Reception) -> None:
        with self._changed:
            while self._expected:
                self._changed.wait(max(0.0, min(self._expected.values()) - time.monotonic()))
                now = time.monotonic()
                self._expected = {peer: until for peer, until in self._expected.items() if until > now}
            self._closing = True
        reception.close()  # without the lock, for which its thread may wait
        with self._changed:
            self._reception, self._closing = None, False
            self._changed.notify_all()


class _ForwardedProbe(ABC):
    """Waits for neighbours where somebody else passes bytes on, each for some seconds after it was expected.

    One measurement with a neighbour goes on at a time.

    Args:
        site: name of this site.
        credentials: of this site.
        is_idle: whether neighbours may measure now; else they learn only that there is a link.
    """

    kind: ClassVar[LinkKind]

    def __init__(self, site: str, credentials: Credentials, is_idle: Callable[[], bool]):
        self._site, self._credentials, self._is_idle = site, credentials, is_idle
        self._expected: dict[str, float] = {}  # by name: until when
        self._lock = threading.Lock()

    @property
    @abstractmethod
    def seconds(self) -> float:
        """For how long a neighbour is waited for."""

    @abstractmethod
    def carrier(self, peer: str, arrive: Arrival) -> Carrier:
        """Brings connections that ``peer``, and nobody else, has begun."""

    def expect(self, peer: str) -> None:
        """Wait for ``peer`` for some seconds from now on."""
        with self._lock:
            is_waited_for = peer in self._expected
            self._expected[peer] = time.monotonic() + self.seconds
        if not is_waited_for:
            threading.Thread(target=self._wait, args=[peer], name=f"probe-{peer}", daemon=True).start()

    def _wait(self, peer: str) -> None:
        one_at_a_time = threading.Lock()

        def use(stream: socket.socket) -> None:
            if self._is_idle() and one_at_a_time.acquire(blocking=False):
                _let_measure(stream, peer, one_at_a_time.release)
            else:
                stream.close()

        trial = _Trial(self._site, peer, TRIAL, use, self.kind)
        with ExitStack() as ending:
            try:
                reception = Reception({peer: trial}, self._credentials, run_digest(TRIAL), lambda *_: None)
            except LinkError:  # the credentials cannot be used: who dials sees that nobody comes
                self._forget(peer)
                raise
            ending.callback(reception.close)
            carrier = self.carrier(peer, reception.take)
            carrier.open({})
            ending.callback(carrier.close)
            while (left := self._left(peer)) > 0:
                time.sleep(left)

    def _left(self, peer: str) -> float:
        """Seconds for which ``peer`` is still waited for; where none are left, it is expected no more."""
        with self._lock:
            left = self._expected[peer] - time.monotonic()
            if left <= 0:
                del self._expected[peer]
            return left

    def _forget(self, peer: str) -> None:
        with self._lock:
            self._expected.pop(peer, None)


class MeetingProbe(_ForwardedProbe):
    """Waits for neighbours at the meeting point.

    Args:
        site, credentials, is_idle: see _ForwardedProbe.
        meeting: where, with tickets for trials.
    """

    kind = LinkKind.MET

    def __init__(
        self,
        site: str,
        meeting: Meeting,
        credentials: Credentials,
        is_idle: Callable[[], bool] = lambda: True,
    ):
        super().__init__(site, credentials, is_idle)
        self._meeting = meeting

    @property
    @override
    def seconds(self) -> float:
        return _OPEN_SECONDS

    @override
    def carrier(self, peer: str, arrive: Arrival) -> Carrier:
        return MetCarrier(
            self._site,
            TRIAL,
            self._meeting,
            self._credentials,
            [peer],
            arrive,
            is_wanted=lambda _: True,
        )


class RelayProbe(_ForwardedProbe):
    """Waits for neighbours behind NVFlare's relay, and goes there itself to those that wait.

    As in a run, the one with the lesser name dials. What comes from a site with which nothing is measured is
    dropped.

    Args:
        site, credentials, is_idle: see _ForwardedProbe.
        post: sends towards the agent of a site, through the server; the message may be lost.
    """

    kind = LinkKind.RELAY

    def __init__(
        self,
        site: str,
        post: Callable[[str, bytes], None],
        credentials: Credentials,
        is_idle: Callable[[], bool] = lambda: True,
    ):
        super().__init__(site, credentials, is_idle)
        self._post = post
        self._carriers: dict[str, RelayCarrier] = {}  # by neighbour, the last one

    def dials(self, peer: str) -> bool:
        """Whether this site is the one of the two that dials."""
        return self._site < peer

    @property
    @override
    def seconds(self) -> float:
        return _OPEN_SECONDS + speed.MOST_SECONDS  # for which this carries what is measured

    @override
    def carrier(self, peer: str, arrive: Arrival) -> RelayCarrier:
        carrier = RelayCarrier(_Towards(peer, self._post), frozenset({peer}), arrive, lambda *_: None)
        # one that is closed takes in nothing, and tells late repeats that it has ended
        self._carriers[peer] = carrier
        return carrier

    def take(self, peer: str, data: Payload) -> None:
        """Take in what the server brought in the name of ``peer``; never raises on bad input."""
        carrier = self._carriers.get(peer)
        if carrier is not None:
            carrier.deliver(peer, data)


class _Towards(NamedTuple):
    """The transport to one neighbour, of which `RelayProbe.take` delivers what comes."""

    peer: str
    send: Callable[[str, bytes], None]

    def post(self, peer: str, data: bytes) -> None:
        self.send(peer, data)

    def listen(self, deliver: Callable[[str, Payload], None]) -> None:
        pass


def _let_measure(stream: socket.socket, peer: str, over: Callable[[], None] = lambda: None) -> None:
    def answer() -> None:
        try:
            _answer(stream)
        finally:
            over()

    threading.Thread(target=answer, name=f"speed-{peer}", daemon=True).start()


def _answer(stream: socket.socket) -> None:
    with suppress(OSError):  # the one that dials says what is wrong; most only look whether there is a link
        speed.answer(stream)


class Failure(NamedTuple):
    """Why there is no link, and what to do about it, as sentences."""

    what: str
    remedy: str


class Way(NamedTuple):
    """By what a site dials a neighbour.

    Attributes:
        carrier: that leads there; it is closed after the attempt.
        run: the invitation's, or TRIAL where somebody else passes bytes on.
        place: where it leads, in words.
        remedy: what to do where it does not lead there.
    """

    carrier: Carrier
    run: str
    place: str
    remedy: str


def straight(site: str, peer: str, address: Address, run: str) -> Way:
    """To the port that ``peer`` has opened at ``address``."""
    carrier = DirectCarrier(None)
    carrier.open({peer: address})
    host, _ = address
    remedy = f"{host} must lead to {peer}, and both firewalls must let {site} connect to its ports."
    return Way(carrier, run, at(*address), remedy)


def by_meeting(site: str, peer: str, meeting: Meeting, credentials: Credentials) -> Way:
    """To the meeting point, where ``peer`` waits."""
    carrier = MetCarrier(site, TRIAL, meeting, credentials, [], _nobody, is_wanted=lambda _: False)
    remedy = f"It must run, and {site} and {peer} must reach it: `flaremesh doctor` says who does not."
    return Way(carrier, TRIAL, f"the meeting point {at(*meeting.address)}", remedy)


def by_relay(site: str, peer: str, relay: RelayProbe) -> Way:
    """Through the server, behind which ``peer`` waits."""
    remedy = f"Both must be connected to the server: `flaremesh doctor` says whether {site} and {peer} are."
    return Way(relay.carrier(peer, _nobody), TRIAL, "the server's relay", remedy)


def _nobody(stream: socket.socket, kind: LinkKind, peer: str) -> None:
    stream.close()


def dial(site: str, peer: str, way: Way, credentials: Credentials) -> Failure | None:
    """Make a link and end it again; None if that worked.

    Args:
        site: the site that dials.
        peer: the site that must answer.
        way: to it.
        credentials: of ``site``.
    """
    with closing(way.carrier):
        made = _made(site, peer, way, credentials)
        if isinstance(made, Failure):
            return made
        made.close()
    return None


def measure(site: str, peer: str, way: Way, credentials: Credentials) -> speed.Speed | Failure:
    """Make a link and measure it, in `speed.MOST_SECONDS` and the time to dial; arguments as of `dial`."""
    with closing(way.carrier):
        made = _made(site, peer, way, credentials)
        if isinstance(made, Failure):
            return made
        try:
            return speed.measure(made)
        except OSError as error:
            return Failure(
                f"{site} could not measure its link to {peer}: {cause_of(error)}.",
                "Both must run one version of flaremesh, and no run may go on at either.",
            )


def _made(site: str, peer: str, way: Way, credentials: Credentials) -> socket.socket | Failure:
    """A link on which both have agreed."""
    try:
        dialler = Dialler(site, run_digest(way.run), credentials, lambda *_: None)
    except LinkError as error:
        return Failure(f"{error}.", "Install the kit again.")
    made: list[socket.socket] = []
    try:
        cause = _connect(dialler, _Trial(site, peer, way.run, made.append, way.carrier.kind), way.carrier)
    except LinkRefused as error:
        what, _, remedy = str(error).partition(". ")
        return Failure(f"{what}.", f"{remedy}: install the kits of the last one.")
    if cause is None:
        return made[0]
    return Failure(f"{site} has no link to {peer} at {way.place}: {cause}.", way.remedy)


def _connect(dialler: Dialler, end: End, carrier: Carrier) -> str | None:
    """Try for some seconds; returns why there is no connection."""
    deadline = time.monotonic() + _DIAL_SECONDS
    while True:
        try:
            dialler.connect(end, carrier, _ATTEMPT_SECONDS)
        except OSError as error:
            if time.monotonic() + _PAUSE_SECONDS > deadline:
                return cause_of(error)
            time.sleep(_PAUSE_SECONDS)
        else:
            return None
