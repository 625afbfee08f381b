"""The agent of the server."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from typing_extensions import override

from flaremesh.metrics.names import AgentMetric
from flaremesh.p2p import charter
from flaremesh.p2p.agents.agent import Agent, counter, gauge
from flaremesh.p2p.agents.attempts import Attempts
from flaremesh.p2p.agents.meeting_point import MeetingProcess, TicketOffice, families
from flaremesh.p2p.agents.shared import SharedMetrics
from flaremesh.p2p.logins import Logins
from flaremesh.p2p.nvflare.cells import JOBS, METRICS, TICKETS, TRIAL_TICKETS
from flaremesh.p2p.nvflare.jobs import FIRST_FAILURE
from flaremesh.p2p.nvflare.logins import guard_logins
from flaremesh.p2p.nvflare.server import ServerProcess, job_of_event
from flaremesh.p2p.nvflare.startup import startup_files
from flaremesh.topology.schema import SERVER

_MOST_FAILURES = 64  # of one site, of jobs that have not ended
_ANSWER_SECONDS = 2.0  # for a site to say which jobs run there
_JOB_SECONDS = 15.0  # for the jobs to end: NVFlare kills their processes after 10 s


class ServerAgent(Agent):
    """Also shows the metrics that sites share, and gives jobs that an earlier process left a final status.

    Args:
        meeting_port: where it keeps a meeting point; None for nowhere.
        options: those of every agent.
    """

    # the jobs, then NVFlare's shutdown_period for sites to leave, and room for a busy machine
    stop_seconds = 40.0
    participant = SERVER

    def __init__(self, meeting_port: int | None = None, **options: Any):
        super().__init__(**options)
        self._meeting_port = meeting_port

    @override
    def start(self, fl_ctx: FLContext) -> None:
        self._started = False
        self._failures: dict[str, str] = {}
        self._process = ServerProcess(fl_ctx)
        abandoned = self._process.abandon_jobs(fl_ctx)
        workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
        self._app_of = lambda job: Path(workspace.get_app_dir(job))
        self._attempts = Attempts(self.workspace, self._process, self._app_of, self._jobs_of)
        self._attempts.take_up(abandoned)
        self._process.hear_aborts(self._attempts.told_to_end)
        self._process.bear_with_silence(self._attempts.patience)
        startup = self.workspace / "startup"
        mine = charter.read(startup)
        self._tickets: TicketOffice | None = None
        self._meeting: MeetingProcess | None = None
        if mine.meet is not None:
            self._tickets = TicketOffice(
                startup,
                mine.mesh,
                self._app_of,
                runs=lambda job: job in self.running_jobs(),
                knows=self._process.knows,
            )
        if self._meeting_port is not None:
            self._meeting = MeetingProcess(startup, mine, self._meeting_port)
        self._logins = Logins(self.workspace)
        guard_logins(startup_files(self.workspace / "startup"), self._logins, fl_ctx)
        super().start(fl_ctx)

    @override
    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.SYSTEM_START:
            if (cell := self._process.cell) is None:
                raise RuntimeError(
                    "NVFlare's server has started without a cell, as no version known here does"
                )
            cell.obey_the_server_alone()
            cell.hear_failures(self._note_failure)
            cell.hear(METRICS, self._take_metrics)
            if self._tickets is not None:
                cell.answer_runs(TICKETS, self._tickets.ticket)
                cell.answer(TRIAL_TICKETS, self._tickets.trial_ticket)
            self._started = True
        elif event_type == EventType.CLIENT_REGISTER_PROCESSED:
            self._process.report_restarted_sites()
            self._attempts.registered()
        elif event_type == EventType.JOB_STARTED:
            self._attempts.started(job_of_event(fl_ctx))
        elif event_type in (EventType.JOB_COMPLETED, EventType.JOB_ABORTED):
            job = job_of_event(fl_ctx)
            failed_first = self._keep_failure(job)
            if event_type == EventType.JOB_ABORTED:
                self._attempts.aborted(job, failed_first)
            else:
                self._attempts.ended(job, failed_first)

    @override
    def collectors(self) -> list[Collector]:
        self._metrics = SharedMetrics(super().collectors())
        return [self._metrics]

    @override
    def missing(self) -> Sequence[str]:
        return [] if self._started else ["starting"]

    @override
    def running_jobs(self) -> Collection[str]:
        return self._process.running_jobs()

    @override
    def runs_over(self) -> Collection[str]:
        return self._attempts.over()

    @override
    def collect(self) -> Iterable[Family]:
        yield gauge(AgentMetric.REGISTERED_SITES, self._process.registered_sites())
        traffic = counter(AgentMetric.SERVER_BYTES)
        cell = self._process.cell
        relayed, other = cell.traffic() if cell else (0.0, 0.0)
        traffic.add_metric(["relay"], relayed)
        traffic.add_metric(["control"], other)
        yield traffic
        refusals = counter(AgentMetric.SERVER_REFUSALS)
        for what, count in self._logins.refusals.items():
            refusals.add_metric([what], count)
        yield refusals
        yield counter(AgentMetric.LOST_ATTEMPTS, self._attempts.lost)
        yield from families(self._meeting.figures if self._meeting else None)
        missing = gauge(AgentMetric.RUN_MISSING_SINCE)
        for run_id, site, since in self._attempts.missing():
            missing.add_metric([run_id, site], since)
        yield missing

    def _jobs_of(self, site: str) -> bytes | None:
        """What a site answers to the question which jobs run there."""
        cell = self._process.cell
        return cell.ask(site, JOBS, _ANSWER_SECONDS) if cell else None

    def _take_metrics(self, site: str, message: bytes) -> None:
        """Show what a site sent; admins, and sites that an admin has disabled, are not registered."""
        if self._process.knows(site):
            self._metrics.take(site, message)

    def _note_failure(self, site: str, job_id: str) -> None:
        """Remember which site failed first: before a controller is up, nothing else says why a job failed.

        A site may tell of any number of jobs; a few of them are remembered.
        """
        told = sum(other == site for other in self._failures.values())
        if self._process.knows(site) and told < _MOST_FAILURES and not self._process.is_aborted(job_id):
            self._failures.setdefault(job_id, site)

    def _keep_failure(self, job_id: str) -> str | None:
        """Write it to the job's meta, after NVFlare has written there for the last time; return it."""
        if site := self._failures.pop(job_id, None):
            self._process.note(job_id, {FIRST_FAILURE: site})
        return site

    @override
    def stop(self) -> None:
        """Abort the jobs and wait until their status is stored, then shut down."""
        self._attempts.leave()
        self._process.abort_jobs(_JOB_SECONDS)
        if self._meeting is not None:
            self._meeting.stop()
        self._process.shut_down()
