"""The agent of a site."""

import json
import os
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from typing_extensions import override

from flaremesh import __version__
from flaremesh.checksum import sha256
from flaremesh.issuing import new_key
from flaremesh.links import LinkError, LinkKind
from flaremesh.links.carriers import met
from flaremesh.metrics import slots
from flaremesh.metrics.exporter import Document
from flaremesh.metrics.names import AgentMetric
from flaremesh.metrics.prometheus import DIRECTORY_VARIABLE, RunMetrics
from flaremesh.p2p import charter, costs
from flaremesh.p2p.agents.agent import Agent, gauge
from flaremesh.p2p.agents.doctor import (
    EDGES,
    MEASURE_PATH,
    Asked,
    Edge,
    Meeting,
    invite,
    measure_edges,
    measure_met,
    measure_relayed,
    try_edges,
    try_meeting,
    turn_away,
    wait_there,
)
from flaremesh.p2p.agents.probe import MeetingProbe, ProbeListener, RelayProbe
from flaremesh.p2p.agents.shared import SHARE_VARIABLE, Sharing, permitted
from flaremesh.p2p.credentials import link_credentials
from flaremesh.p2p.gate import egress, policy
from flaremesh.p2p.gate.audit import AuditLog, LateNotes
from flaremesh.p2p.gate.begun import Begun
from flaremesh.p2p.gate.ledger import Ledger
from flaremesh.p2p.gate.request import Refused
from flaremesh.p2p.nvflare import run_credential
from flaremesh.p2p.nvflare.cells import FRAMES, JOBS, METRICS, OVER, PROBE, SERVER, TRIAL_TICKETS
from flaremesh.p2p.nvflare.site import SiteProcess
from flaremesh.p2p.outcome import MODEL, RUN_FOLDER

_LIFETIME = timedelta(days=36500)  # as long as that of the kit
_TICKET_SECONDS = 3.0  # for the server to answer
_BY_MEETING = b"met"  # asked of a neighbour that is to come to the meeting point
_BY_RELAY = b"relayed"  # and of one that is to wait behind the relay


class SiteAgent(Agent):
    """Also serves the metrics of the site's runs, which their processes leave in a shared directory.

    The directory is ``metrics`` in the workspace unless FLAREMESH_METRICS_DIR names another one, e.g. in
    memory; it must belong to this site alone, and is emptied when the site starts.

    Args:
        link: where in-neighbours dial, ``{"host": ..., "ports": [low, high]}``; None if they cannot.
        dials: the out-neighbours that this site dials, ``{"site": ..., "host": ...}`` each.
        admits: the in-neighbours that may dial.
        gpus: how many the site is to have.
        share: names of the metrics that the server may show; FLAREMESH_SHARE_METRICS can take some away.
        settings: arguments of Agent.
    """

    # a job process is given 10 s to end (NVFlare's limit), a logout that the server does not answer 5 s
    stop_seconds = 25.0

    def __init__(
        self,
        link: Mapping[str, Any] | None = None,
        dials: Sequence[Mapping[str, str]] = (),
        admits: Sequence[str] = (),
        gpus: int = 0,
        share: Sequence[str] = (),
        **settings: Any,
    ):
        super().__init__(**settings)
        self._link = link
        self._dials = {peer["site"]: peer["host"] for peer in dials}
        self._admits = frozenset(admits)
        self.gpus = gpus
        self._share = share
        self._sharing: Sharing | None = None
        self._measuring = threading.Lock()

    @override
    def start(self, fl_ctx: FLContext) -> None:
        self._process = SiteProcess(fl_ctx)
        self._metrics = Path(os.environ.setdefault(DIRECTORY_VARIABLE, str(self.workspace / "metrics")))
        slots.clear(self._metrics)
        self.participant = self._process.name
        startup = self.workspace / "startup"
        self._charter = charter.read(startup)
        run_credential.issue(startup, self.workspace, new_key(), _LIFETIME)
        self._credentials = link_credentials(startup, self.workspace, self._charter)
        if self._link is not None:
            low, high = self._link["ports"]
            self._probe = ProbeListener(
                self.participant,
                self._link["host"],
                (low, high),
                self._credentials,
                is_idle=lambda: not self.running_jobs(),
            )
        self._place: met.Meeting | None = None
        if self._charter.meet is not None:
            self._place = met.Meeting(self._charter.meet, self._trial_ticket)
            self._meets = MeetingProbe(
                self.participant, self._place, self._credentials, is_idle=lambda: not self.running_jobs()
            )
        self._relay = RelayProbe(
            self.participant, self._post, self._credentials, is_idle=lambda: not self.running_jobs()
        )
        self._notes = LateNotes(AuditLog(self.workspace))
        self._notes.add(
            "started",
            version=__version__,
            kit=self.kit_digest,
            policy=policy.digest(self.workspace),
            shares=sorted(permitted(self._share, os.environ.get(SHARE_VARIABLE))),
        )
        super().start(fl_ctx)

    @override
    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.SYSTEM_START:
            self._process.cell.obey_the_server_alone()
            self._process.cell.answer(PROBE, self._invite)
            self._process.cell.hear_sites(FRAMES, self._relay.take)
            self._process.cell.answer(JOBS, self._tell_jobs)
            self._process.cell.hear(OVER, self._note_over)
            self._begin_to_share()
        elif event_type == EventType.JOB_COMPLETED:
            self._note_end(str(fl_ctx.get_prop(FLContextKey.CURRENT_JOB_ID)))
            self.sweep()  # the run that ended may be one more than are kept
            if self._sharing:
                self._sharing.soon()

    @override
    def collectors(self) -> list[Collector]:
        return [*super().collectors(), RunMetrics(self._metrics)]

    @override
    def addresses(self) -> Mapping[str, Any]:
        return {"link": self._link, "dials": self._dials}

    @override
    def missing(self) -> Sequence[str]:
        if not self._process.is_registered:
            return ["not registered with the server"]
        # the heartbeat proves nothing: NVFlare counts one that timed out as well
        if not self._process.cell.reaches_server:
            return ["no connection to the server"]
        return []

    @override
    def running_jobs(self) -> Collection[str]:
        return self._process.running_jobs()

    @override
    def runs_over(self) -> Collection[str]:
        try:
            return Begun(self.workspace).over(datetime.now(UTC))
        except Refused as error:
            self.logger.warning("stores of runs stay for now: %s", error)
            return ()

    @override
    def edges(self) -> Sequence[Edge]:
        if why := self.missing():
            return [Edge(peer, host, None, why[0]) for peer, host in self._dials.items()]
        return try_edges(
            self.participant,
            self._dials,
            self._charter.peers,
            self._ask_to_dial,
            self._credentials,
        )

    @override
    def meeting(self) -> Meeting | None:
        return try_meeting(self.participant, self._charter.meet) if self._charter.meet else None

    @override
    def documents(self) -> dict[str, Document]:
        return super().documents() | {
            MEASURE_PATH: self._measure,
            costs.PATH: lambda query: costs.measured(),
        }

    def _measure(self, query: str) -> bytes:
        """Measure the edges to some peers at the same time."""
        asked = Asked.read(query)
        hosts = {peer: host for peer, host in self._dials.items() if peer in asked.dialled}
        to_meet = {peer for peer in asked.met if self._may(LinkKind.MET, peer)}
        relayed = {
            peer for peer in asked.relayed if self._may(LinkKind.RELAY, peer) and self._relay.dials(peer)
        }
        why = self.missing()
        if not why and self.running_jobs():  # one would disturb the other
            why = [f"a run goes on at {self.participant}: measure when it has ended"]
        has_begun = not why and self._measuring.acquire(blocking=False)
        if not why and not has_begun:
            why = [f"{self.participant} measures already: measure again in a minute"]
        if why:
            peers = {*hosts, *to_meet, *relayed}
            return EDGES.json([Edge(peer, hosts.get(peer, ""), None, why[0]) for peer in peers]).encode()
        try:
            return EDGES.json(self._measured(hosts, to_meet, relayed)).encode()
        finally:
            self._measuring.release()

    def _measured(
        self, hosts: Mapping[str, str], to_meet: Collection[str], relayed: Collection[str]
    ) -> list[Edge]:
        me, mine, place = self.participant, self._credentials, self._place
        with ThreadPoolExecutor(3) as all_ways:
            straight = all_ways.submit(measure_edges, me, hosts, self._charter.peers, self._ask_to_dial, mine)
            behind = all_ways.submit(measure_relayed, me, relayed, self._relay, self._ask_to_wait, mine)
            met_ones = measure_met(me, to_meet, place, self._ask_to_meet, mine) if place else []
        return [*straight.result(), *met_ones, *behind.result()]

    def _ask_to_dial(self, peer: str, timeout: float) -> bytes | None:
        return self._process.cell.ask(peer, PROBE, timeout)

    def _ask_to_meet(self, peer: str, timeout: float) -> bytes | None:
        return self._process.cell.ask(peer, PROBE, timeout, _BY_MEETING)

    def _ask_to_wait(self, peer: str, timeout: float) -> bytes | None:
        return self._process.cell.ask(peer, PROBE, timeout, _BY_RELAY)

    def _post(self, peer: str, data: bytes) -> None:
        with suppress(RuntimeError):  # the cell was stopped meanwhile
            self._process.cell.tell(FRAMES, data, peer)

    def _trial_ticket(self, peer: str) -> bytes | None:
        return self._process.cell.ask(SERVER, TRIAL_TICKETS, _TICKET_SECONDS, peer.encode()) or None

    def _note_over(self, who: str, run: bytes) -> None:
        """A run has finished everywhere, by the server's word; a false one ends no more than its attempts."""
        if who == SERVER:
            try:
                Begun(self.workspace).end(run.decode("ascii", "replace"))
            except (Refused, OSError) as error:
                self.logger.warning("a run that is over may get further attempts: %s", error)
            self.sweep()

    def _note_end(self, job: str) -> None:
        told = egress.read(self.workspace / job)
        if told and told.rdp is not None:
            try:
                Ledger(self.workspace).settle(job, told.rdp)
            except (Refused, OSError) as error:
                self.logger.warning("what a run has not spent of its privacy budget is kept: %s", error)
        model = self.workspace / job / RUN_FOLDER / MODEL
        # what has ended left it, and may have left something else in its place
        digest = sha256(model) if model.is_file() and not model.is_symlink() else None
        self._notes.add("ended", job=job, model=digest, told_by_its_process=asdict(told) if told else None)

    def _begin_to_share(self) -> None:
        names = permitted(self._share, os.environ.get(SHARE_VARIABLE))
        self.logger.info("the server may show of this site: %s", ", ".join(sorted(names)) or "nothing")
        if names:
            self._sharing = Sharing(self.collectors(), names, self._tell)

    def _tell(self, message: bytes) -> None:
        if not self.missing():
            with suppress(RuntimeError):  # the cell was stopped meanwhile
                self._process.cell.tell(METRICS, message)

    def _may(self, kind: LinkKind, peer: str) -> bool:
        """Whether the kit lets an edge with ``peer`` travel in this way."""
        known = self._charter.peers.get(peer)
        return known is not None and kind in known.carriers

    def _tell_jobs(self, who: str, data: bytes) -> bytes:
        """The jobs whose process runs here; none of the server's business is another site's."""
        return json.dumps(sorted(self.running_jobs()) if who == SERVER else []).encode()

    def _invite(self, peer: str, data: bytes) -> bytes:
        """Let a neighbour come, or say why it cannot."""
        if data == _BY_MEETING and self._place is not None and self._may(LinkKind.MET, peer):
            self._meets.expect(peer)
            return wait_there()
        if data == _BY_RELAY and self._may(LinkKind.RELAY, peer) and not self._relay.dials(peer):
            self._relay.expect(peer)
            return wait_there()
        if data in (_BY_MEETING, _BY_RELAY) or self._link is None or peer not in self._admits:
            return turn_away(
                f"{self.participant} lets {peer} not come in this way: its kit knows no such edge.",
                "Certificates, addresses and edges must come from one provisioning: "
                "install the kits of the last one.",
                wrong=True,
            )
        low, high = self._link["ports"]
        try:
            return invite(self._probe.expect(peer))
        except LinkError as error:
            # nothing is wrong if runs have taken all ports
            wrong = len(self.running_jobs()) < high - low + 1
            return turn_away(f"{self.participant}: {error}.", "Stop what else listens there.", wrong=wrong)

    @override
    def collect(self) -> Iterable[Family]:
        yield gauge(AgentMetric.REGISTERED, not self.missing())
        refused = AgentMetric.REFUSED_RUNS.value
        yield CounterMetricFamily(refused.full_name, refused.help, self._process.refused_jobs)

    @override
    def stop(self) -> None:
        """End the jobs, since they cannot go on without this process, then log out."""
        if self._process.is_registered:
            self._process.abort_jobs()
            self._process.log_out()
