"""A site in a run, from its configuration to its end: its link, metrics and progress."""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal

from flaremesh.errors import FlaremeshError
from flaremesh.links import LinkError, Payload, Refusal
from flaremesh.links.assemble import assemble
from flaremesh.links.carrier import Address
from flaremesh.links.carriers.met import Meeting
from flaremesh.links.mesh_link import MeshLink
from flaremesh.links.traffic import TrafficCounter
from flaremesh.metrics.names import RunState
from flaremesh.metrics.prometheus import PrometheusSink
from flaremesh.p2p import charter as charters
from flaremesh.p2p.attempt import resumable_store
from flaremesh.p2p.charter import Charter
from flaremesh.p2p.credentials import link_credentials
from flaremesh.p2p.executors.assignment import (
    CharterError,
    OrderError,
    mode_of,
    require_allowed,
    require_ordered,
    require_places,
)
from flaremesh.p2p.executors.tickets import Tickets
from flaremesh.p2p.extra import planned_iterations, tolerance_of
from flaremesh.p2p.gate import egress, order
from flaremesh.p2p.nvflare.cells import CHECKPOINT, FRAMES, PROGRESS, SERVER, TICKETS, RunCell
from flaremesh.p2p.nvflare.receivers import LiveMetrics, receivers_of
from flaremesh.p2p.nvflare.startup import startup_files
from flaremesh.p2p.outcome import SiteResult
from flaremesh.p2p.progress import ProgressReporter
from flaremesh.p2p.store import CHECKPOINTS
from flaremesh.p2p.types import LocalConfig
from flaremesh.runtime.checkpoint import Checkpoints
from flaremesh.runtime.cuts import Cuts

_log = logging.getLogger(__name__)

_CUTS = re.compile(rb"(\d{1,10}) (\d{1,10})")
_MOST_CUTS = 32  # bytes, more than there can be
_TICKET_SECONDS = 3.0  # for the server to answer


@dataclass(frozen=True)
class Member:
    """A site in a run.

    Attributes:
        folder: the run's folder at this site.
        simulated: whether it is in NVFlare's simulator, where each site works in a folder of its own.
        link: carries messages to and from the neighbours.
        traffic: what the link counts.
        metrics: what can be scraped of the run.
        progress: reports to the server how far the site is.
        charter: what the site's kit allows; None in NVFlare's simulator, which has no kits.
        checkpoints: of the run at this site; None where the run ends with its first loss.
        cell: its end of the messages through the server.
        edges: whose values go to whom in the whole run, as its submitter signed it; None where nobody did.
        live: passes what the site measures on to receivers of its own; None without any.
    """

    folder: Path
    simulated: bool
    link: MeshLink
    traffic: TrafficCounter
    metrics: PrometheusSink
    progress: ProgressReporter
    charter: Charter | None = None
    checkpoints: Checkpoints | None = None
    cell: RunCell | None = None
    edges: Mapping[str, tuple[str, ...]] | None = None
    live: LiveMetrics | None = None

    @classmethod
    def join(cls, fl_ctx: FLContext, config: LocalConfig, algorithm: str, abort_signal: Signal) -> "Member":
        """Take a site into a run, its link not open yet.

        Args:
            fl_ctx: context of the ``config`` task.
            config: the site's part of the network and the run's ``extra``.
            algorithm: its name in the metrics.
            abort_signal: triggered when the run is aborted.

        Raises:
            ExtraError: ``extra["links"]`` is no mode.
            CharterError, OrderError: the site's kit, or the order, has other neighbours or carriers.
            Refused: the run has no order.
            LinkError: no port is free, or the certificate cannot be used.
        """
        job, workspace = fl_ctx.get_job_id(), fl_ctx.get_workspace()
        folder, startup = Path(workspace.get_run_dir(job)), Path(workspace.get_startup_kit_dir())
        charter = _charter(startup)
        mode = mode_of(config.extra)
        peers = {peer for hood in config.schedule for peer in (*hood.in_weights, *hood.out)}
        cell = RunCell(fl_ctx, peers)

        def cancelled() -> bool:
            return bool(abort_signal.triggered)

        traffic = TrafficCounter(peers)
        metrics = PrometheusSink(
            config.run_id or job,
            algorithm,
            config.labels.get("topology", ""),
            planned_iterations(config.extra),
            config.schedule,
            traffic,
            config.extra.get("stepsize"),
            config.labels.get("predicted_contraction"),
            attempt=job,
        )
        checkpoints = tolerance = edges = None
        progress = ProgressReporter(lambda data: cell.post(SERVER, PROGRESS, data), traffic.links, cancelled)
        try:
            if charter is not None:
                require_allowed(config, mode, charter)
                app = Path(workspace.get_app_dir(job))
                asked, store = order.read(app), resumable_store(Path(workspace.get_root_dir()), app)
                require_ordered(config, mode, asked, charter.participant)
                edges = asked.edges
                tolerance = tolerance_of(config.extra) if store else None
                checkpoints = Checkpoints(store / CHECKPOINTS, charter.participant) if store else None
            link = assemble(
                job,
                config.schedule,
                mode,
                observer=traffic,
                cancelled=cancelled,
                transport=_ThroughServer(cell),
                credentials=link_credentials(startup, folder, charter, job) if charter else None,
                listen=(config.link["host"], tuple(config.link["ports"])) if config.link else None,
                tolerance=tolerance,
                meeting=_meeting(cell, charter),
                allowed={name: peer.carriers for name, peer in charter.peers.items()} if charter else None,
            )
        except FlaremeshError as error:
            if isinstance(error, CharterError | OrderError):
                traffic.refused(error.peer, Refusal.CHARTER)
            metrics.state(RunState.FAILED)
            progress.stop()
            raise
        receivers = receivers_of(fl_ctx)
        live = LiveMetrics(fl_ctx, receivers) if receivers else None
        return cls(
            folder, charter is None, link, traffic, metrics, progress, charter, checkpoints, cell, edges, live
        )

    def open(self, addresses: Mapping[str, Address], timeout: float) -> None:
        """Link the neighbours; as MeshLink.open, or raises CharterError for another place to dial."""
        if self.charter is not None:
            try:
                require_places(addresses, self.charter)
            except CharterError as error:
                self.traffic.refused(error.peer, Refusal.CHARTER)
                raise
        self.link.open(addresses, timeout)

    def enter(self, state: RunState, patience: float) -> None:
        """The run has come to ``state`` at this site; an end closes the link and stops the reports.

        Args:
            state: the state.
            patience: seconds to wait for neighbours to acknowledge messages, if the run has finished.
        """
        self.metrics.state(state)
        if state.ended:
            self.progress.stop()
            self.link.close(patience=patience if state is RunState.FINISHED else 0)
            if self.live is not None:
                self.live.close()
            if not self.simulated:  # a simulated site has no audit log that would say it
                traffic = self.traffic
                try:
                    spending = self.metrics.spending
                    told = egress.Egress(
                        state,
                        dict(traffic.sent_bytes),
                        dict(traffic.links),
                        spending.epsilon if spending else None,
                        spending.rdp if spending else None,
                    )
                    egress.write(self.folder, told)
                except OSError as error:  # e.g. no room: the line of its end says that nothing was told
                    _log.error("the audit log will not say what left this site: %s", error)

    def hear_checkpoints(self, follow: Callable[[Cuts], None]) -> None:
        """Call ``follow`` with the iterations that the server names for checkpoints."""

        def deliver(sender: str, data: Payload) -> None:
            if sender == SERVER and (numbers := _CUTS.fullmatch(bytes(data[:_MOST_CUTS]))):
                follow(Cuts(int(numbers[1]), int(numbers[2])))

        if self.cell is not None:
            self.cell.listen(CHECKPOINT, deliver)

    def reached(self, iterations: int) -> None:
        """Report the number of iterations done, where the algorithm reports nothing else."""
        self.progress.reached(iterations)
        self.metrics.reached(iterations)

    def outcome(self, iterations: int, **figures: Any) -> SiteResult:
        """The site's result after these iterations; ``figures`` are other attributes of SiteResult."""
        return SiteResult(
            iterations=iterations,
            sent_bytes=dict(self.traffic.sent_bytes),
            received_bytes=dict(self.traffic.received_bytes),
            links=dict(self.traffic.links),
            **figures,
        )


def count_malformed(member: Member | None, run_id: str) -> None:
    """Count what the server told that is no part of a run; without a member, for a run that has failed."""
    if member is not None:
        member.traffic.refused(SERVER, Refusal.MALFORMED)
        return
    traffic = TrafficCounter(())
    traffic.refused(SERVER, Refusal.MALFORMED)
    PrometheusSink(run_id, "", "", 0, (), traffic).state(RunState.FAILED)


def _meeting(cell: RunCell, charter: Charter | None) -> Meeting | None:
    """Where the run's pairs meet, with tickets from the server's own process; None: nowhere."""
    if charter is None or charter.meet is None:
        return None
    tickets = Tickets(lambda peer: cell.ask_server(TICKETS, peer.encode(), _TICKET_SECONDS))
    return Meeting(charter.meet, tickets.of)


class _ThroughServer:
    """The transport of relayed frames: messages of NVFlare's cells, which the server forwards."""

    def __init__(self, cell: RunCell):
        self._cell = cell

    def post(self, peer: str, data: bytes) -> None:
        self._cell.post(peer, FRAMES, data)

    def listen(self, deliver: Callable[[str, Payload], None]) -> None:
        self._cell.listen(FRAMES, deliver)


def _charter(startup: Path) -> Charter | None:
    """The charter in the site's kit; None in NVFlare's simulator, which has no kits."""
    if not startup_files(startup).certificate.exists():
        return None
    try:
        return charters.read(startup)
    except (OSError, ValueError, FlaremeshError) as error:
        raise LinkError(
            f"the charter of this kit, which says what the site may do, cannot be used: {error}. "
            "Run `flaremesh provision`, and install the new kit"
        ) from error
