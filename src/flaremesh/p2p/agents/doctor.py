"""What an agent reports about its own participant."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

from pydantic import Field

from flaremesh import __version__
from flaremesh.hosts import at
from flaremesh.links import tunnel
from flaremesh.links.carrier import Address
from flaremesh.links.carriers import met
from flaremesh.links.credentials import Credentials
from flaremesh.links.speed import MOST_SECONDS, Speed
from flaremesh.links.tls import cause_of
from flaremesh.p2p import participant
from flaremesh.p2p.agents.probe import (
    Failure,
    Invitation,
    RelayProbe,
    Way,
    by_meeting,
    by_relay,
    dial,
    measure,
    straight,
)
from flaremesh.p2p.charter import Peer
from flaremesh.p2p.participant import StartError
from flaremesh.printable import printable
from flaremesh.record import Name, RecordError, Schema, Text, Whole, at_most
from flaremesh.sandbox import landlock
from flaremesh.topology.schema import MOST_SITES

PATH: Final = "/doctor?report"
"""Where an agent serves its report."""

MEASURE_PATH: Final = "/measure"
"""Where an agent measures its edges to some peers, all at once; see `Asked`."""

_FRESH_SECONDS = 5.0  # a scraper that asks more often would keep the neighbours busy
_ASK_SECONDS = 3.0
_ASKED = 2  # so often a peer is asked: a message may be lost, or a busy machine answer late
_EDGES_SECONDS = _ASKED * _ASK_SECONDS + 7.0  # 5 s to dial, and a resolver that is slow
_MEET_SECONDS = 3.0
_GPU_SECONDS = 20.0  # to import torch and count the GPUs

_DAY_SECONDS = 86_400.0
_MOST_NOTES = 64  # versions, or things that are missing


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes:
        participant: name of the participant that it concerns.
        what: what is wrong, a sentence.
        remedy: what to do, a sentence.
        peer: the out-neighbour, if it is about an edge.
    """

    participant: Name
    what: Text
    remedy: Text
    peer: Name | None = None


@dataclass(frozen=True)
class Edge:
    """A direct edge, as the site that dials sees it.

    Attributes:
        peer: the out-neighbour.
        address: where it was dialled, as far as is known.
        ok: a link was made; None if that could not be tried, and nothing is wrong.
        reason: why not.
        remedy: what to do.
        version: of flaremesh at the peer.
        speed: of the link; None unless it was to be measured, and could be.
    """

    peer: Name
    address: Name
    ok: bool | None
    reason: Text = ""
    remedy: Text = ""
    version: Name | None = None
    speed: Speed | None = None


@dataclass(frozen=True)
class Report:
    """What the doctor found out about a participant.

    Attributes:
        name: the participant.
        versions: by package.
        missing: what keeps it from taking part in a run; empty for a site that is registered and connected.
        certificate_days: days until its certificate expires, negative afterwards.
        free_bytes: room in its workspace.
        gpus: how many the topology says that it has.
        visible_gpus: how many torch sees; None where nobody asks for any, or torch has no CUDA.
        edges: its direct edges to out-neighbours.
        findings: what is wrong.
        confined: the kernel keeps the code of runs from the key and from what else is not theirs.
        meets: whether it reaches the meeting point; None where the mesh has none, or it is not a site.
    """

    name: Name
    versions: Annotated[Mapping[Name, Name], at_most(_MOST_NOTES)]
    missing: Annotated[Sequence[Text], Field(max_length=_MOST_NOTES)]
    certificate_days: float
    free_bytes: Whole
    gpus: Whole
    visible_gpus: Whole | None
    edges: Annotated[Sequence[Edge], at_most(MOST_SITES)]
    findings: Annotated[Sequence[Finding], at_most(MOST_SITES)]
    confined: bool = True
    meets: bool | None = None

    def to_json(self) -> bytes:
        """The report as JSON, as the agent serves it."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_json(cls, document: bytes) -> "Report":
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: it is no report, or one of another version.
        """
        try:
            return _REPORT.read(document, "what an agent serves")
        except RecordError as error:
            raise ValueError(str(error)) from None


_REPORT: Final = Schema[Report](Report, "a report")
EDGES: Final = Schema[Annotated[Sequence[Edge], at_most(MOST_SITES)]](
    Annotated[Sequence[Edge], at_most(MOST_SITES)], "a list of measured edges"
)
"""What an agent answers at MEASURE_PATH."""


@dataclass(frozen=True)
class _Answer:
    """What a peer's agent answers to the request to be dialled: `Invitation`, or why there is none.

    Attributes:
        version: of flaremesh there.
        port, run: the invitation's.
        waits: it waits at the meeting point, or behind the relay.
        why, remedy, wrong: see `turn_away`.
    """

    version: Name | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    run: Name = ""
    waits: bool = False
    why: Text = ""
    remedy: Text = ""
    wrong: bool = False


_ANSWER: Final = Schema[_Answer](_Answer, "an answer to the request to be dialled")


class Meeting(NamedTuple):
    """Whether a site reaches the meeting point; ``failure`` says why not."""

    failure: Failure | None = None


def try_meeting(site: str, address: Address) -> Meeting:
    """Make a connection to the meeting point as a run would, through the site's proxy where it has one."""
    try:
        tunnel.connect(address, _MEET_SECONDS).close()
    except OSError as error:
        where = at(*address)
        return Meeting(
            Failure(
                f"{site} does not reach the meeting point at {where}: {printable(cause_of(error))}.",
                f"It must run, and firewalls must let {site} connect to {where}; where {site} reaches others "
                "through a proxy only, HTTPS_PROXY must name that.",
            )
        )
    return Meeting()


Attempt: TypeAlias = Callable[[str, str, Way, Credentials], Speed | Failure | None]
"""`dial`, or `measure`."""

Ask: TypeAlias = Callable[[str, float], bytes | None]
"""(peer, seconds) -> what its agent answers to the request to be dialled, or None."""


class Doctor:
    """Serves reports on a participant, and makes a new one if the last is older than some seconds.

    Args:
        examine: makes a report; never called twice at a time.
    """

    def __init__(self, examine: Callable[[], Report]):
        self._examine = examine
        self._lock = threading.Lock()
        self._report: Report | None = None
        self._taken = 0.0

    def report(self) -> Report:
        """A report that is at most some seconds old."""
        with self._lock:
            if self._report is None or time.monotonic() - self._taken > _FRESH_SECONDS:
                self._report = self._examine()
                self._taken = time.monotonic()
            return self._report


def examine(
    name: str,
    workspace: Path,
    missing: Sequence[str],
    expires: float,
    gpus: int,
    edges: Sequence[Edge],
    meeting: Meeting | None = None,
) -> Report:
    """Examine a participant's machine, and put all that is known together.

    Args:
        name: the participant.
        workspace: its folder.
        missing: what keeps it from taking part in a run.
        expires: when its certificate does, Unix time.
        gpus: how many it is to have.
        edges: what was found of its direct edges.
        meeting: what was found of its way to the meeting point.
    """
    findings = [
        Finding(
            name, f"{name}: {phrase}.", "The server must run, and its host and port be reachable from there."
        )
        for phrase in missing
    ]
    visible = None
    try:
        participant.check(workspace, name, gpus=0)
        if gpus:
            visible = _visible_gpus(name)
            participant.require_gpus(name, gpus, visible)
    except StartError as error:
        what, _, remedy = str(error).partition(". ")
        findings.append(Finding(name, f"{what}.", remedy))
    findings += [Finding(name, edge.reason, edge.remedy, edge.peer) for edge in edges if edge.ok is False]
    if meeting is not None and meeting.failure is not None:
        findings.append(Finding(name, *meeting.failure))
    return Report(
        name=name,
        versions=versions(),
        missing=missing,
        certificate_days=(expires - time.time()) / _DAY_SECONDS,
        free_bytes=shutil.disk_usage(workspace).free,
        gpus=gpus,
        visible_gpus=visible,
        edges=edges,
        findings=findings,
        confined=bool(landlock.version()),
        meets=None if meeting is None else meeting.failure is None,
    )


def versions() -> dict[str, str]:
    """Versions of the packages that must be the same at all participants, by name."""
    return {"flaremesh": __version__} | {package: version(package) for package in ("nvflare", "torch")}


def try_edges(
    site: str,
    hosts: Mapping[str, str],
    allowed: Mapping[str, Peer],
    ask: Ask,
    credentials: Credentials,
    attempt: Attempt = dial,
    seconds: float = 0.0,
) -> list[Edge]:
    """Dial all out-neighbours at once.

    Args:
        site: the site that dials.
        hosts: where to dial, by out-neighbour.
        allowed: the peers in the charter of ``site``; it dials no place that is not theirs.
        ask: see Ask.
        credentials: of ``site``.
        attempt: what to do with each.
        seconds: that it may take beside the dialling.
    """

    def way(peer: str, reply: _Answer) -> Way | Edge:
        host, known = hosts[peer], allowed.get(peer)
        if reply.port is None:
            return _turned_away(peer, host, reply)
        if known is None or not known.is_at(host, reply.port):
            place = at(host, reply.port)
            return _failed(
                peer,
                place,
                Failure(
                    f"{site} does not dial {peer} at {place}: that is not its place in the kit.",
                    "The kits of both must come from the last provisioning.",
                ),
                reply.version,
            )
        return straight(site, peer, (host, reply.port), reply.run)

    return _try_all(site, hosts, way, ask, credentials, attempt, seconds)


def measure_edges(
    site: str, hosts: Mapping[str, str], allowed: Mapping[str, Peer], ask: Ask, credentials: Credentials
) -> list[Edge]:
    """As `try_edges`, and measure each link."""
    return try_edges(site, hosts, allowed, ask, credentials, measure, MOST_SECONDS)


def measure_met(
    site: str, peers: Collection[str], meeting: met.Meeting, ask: Ask, credentials: Credentials
) -> list[Edge]:
    """Meet neighbours at the meeting point, all at once, and measure each link.

    Args:
        site: the site that dials.
        peers: the neighbours.
        meeting: where, with tickets for trials.
        ask: see Ask.
        credentials: of ``site``.
    """
    place = at(*meeting.address)

    def way(peer: str, reply: _Answer) -> Way | Edge:
        if not reply.waits:
            return _turned_away(peer, place, reply)
        return by_meeting(site, peer, meeting, credentials)

    hosts = dict.fromkeys(peers, place)
    return _try_all(site, hosts, way, ask, credentials, measure, MOST_SECONDS)


def measure_relayed(
    site: str, peers: Collection[str], relay: RelayProbe, ask: Ask, credentials: Credentials
) -> list[Edge]:
    """Go through NVFlare's relay to neighbours, all at once, and measure each link.

    Args:
        site: the site that dials.
        peers: the neighbours.
        relay: of ``site``.
        ask: see Ask.
        credentials: of ``site``.
    """
    place = "the server's relay"

    def way(peer: str, reply: _Answer) -> Way | Edge:
        return by_relay(site, peer, relay) if reply.waits else _turned_away(peer, place, reply)

    hosts = dict.fromkeys(peers, place)
    return _try_all(site, hosts, way, ask, credentials, measure, MOST_SECONDS)


def _try_all(
    site: str,
    hosts: Mapping[str, str],
    way_of: Callable[[str, _Answer], Way | Edge],
    ask: Ask,
    credentials: Credentials,
    attempt: Attempt,
    seconds: float,
) -> list[Edge]:
    """Ask the neighbours and dial those that answer, each in a thread of its own.

    Args:
        site, hosts, ask, credentials, attempt, seconds: see `try_edges`.
        way_of: the way to a peer that answered, or why there is none.
    """
    limit = _EDGES_SECONDS + seconds
    found = {
        peer: _failed(
            peer,
            host,
            Failure(
                f"{site} could not find out within {limit:g} s whether {host} leads to {peer}.",
                "Does that name resolve there?",
            ),
        )
        for peer, host in hosts.items()
    }

    def ask_and_try(peer: str, host: str) -> None:
        answers = (ask(peer, _ASK_SECONDS) for _ in range(_ASKED))
        answer = next((answer for answer in answers if answer is not None), None)
        reply = _read_answer(site, peer, answer)
        if isinstance(reply, Failure):
            found[peer] = _failed(peer, host, reply)
            return
        way = way_of(peer, reply)
        if isinstance(way, Edge):
            found[peer] = way
            return
        outcome = attempt(site, peer, way, credentials)
        found[peer] = (
            _failed(peer, way.place, outcome, reply.version)
            if isinstance(outcome, Failure)
            else Edge(peer, way.place, True, version=reply.version, speed=outcome)
        )

    threads = [threading.Thread(target=ask_and_try, args=edge, daemon=True) for edge in hosts.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + limit
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return list(found.values())


def _read_answer(site: str, peer: str, answer: bytes | None) -> _Answer | Failure:
    if answer is None:
        return Failure(
            f"{site} cannot try its link to {peer}: {peer} does not answer through the server.",
            f"{peer} must run and be registered.",
        )
    try:
        return _ANSWER.read(answer, f"what {peer} answers")
    except RecordError as error:
        return Failure(str(error), f"{site} and {peer} must run one version of flaremesh.")


def _turned_away(peer: str, host: str, reply: _Answer) -> Edge:
    return Edge(peer, host, False if reply.wrong else None, reply.why, reply.remedy, reply.version)


class Asked(NamedTuple):
    """What follows the question mark of MEASURE_PATH.

    Attributes:
        dialled: the peers that the site is to dial.
        met: those that it is to meet.
        relayed: those to which it is to go through the relay.
    """

    dialled: Collection[str] = frozenset()
    met: Collection[str] = frozenset()
    relayed: Collection[str] = frozenset()

    def query(self) -> str:
        """As text."""
        return ";".join(",".join(sorted(peers)) for peers in self)

    @classmethod
    def read(cls, query: str) -> "Asked":
        """What ``query`` wrote; any text is one."""
        return cls(*(frozenset(filter(None, peers.split(","))) for peers in query.split(";", 3)[:3]))


def invite(invitation: Invitation) -> bytes:
    """The answer to a site that may dial."""
    return _answer(invitation._asdict())


def wait_there() -> bytes:
    """The answer to a site that is waited for at the meeting point, or behind the relay."""
    return _answer({"waits": True})


def turn_away(why: str, remedy: str, *, wrong: bool) -> bytes:
    """The answer to a site that cannot dial now; ``wrong`` if that is a fault."""
    return _answer({"why": why, "remedy": remedy, "wrong": wrong})


def _answer(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields | {"version": version("flaremesh")}).encode()


def _failed(peer: str, address: str, failure: Failure, version: str | None = None) -> Edge:
    return Edge(peer, address, False, failure.what, failure.remedy, version)


def _visible_gpus(name: str) -> int | None:
    """Count in another process: this one would keep a CUDA context for as long as it lives."""
    program = f"from {participant.__name__} import visible_gpus; print(visible_gpus())"
    try:
        counted = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=_GPU_SECONDS, check=True
        )
    except (subprocess.SubprocessError, OSError) as error:
        raise StartError(f"{name}: the GPUs cannot be counted: {error}. Look at its driver.") from None
    answer = counted.stdout.split()[-1]
    return None if answer == "None" else int(answer)
