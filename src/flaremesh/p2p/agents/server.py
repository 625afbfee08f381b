"""The agent of the server."""

import time
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey
from nvflare.private.fed.server.server_status import ServerStatus
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from flaremesh.metrics.names import AgentMetric
from flaremesh.p2p.agents.agent import Agent, gauge
from flaremesh.p2p.agents.shared import SharedMetrics
from flaremesh.p2p.cell import FRAMES, METRICS, hear, hear_failures
from flaremesh.topology.schema import SERVER

_JOB_SECONDS = 15.0  # for the jobs to end: NVFlare kills their processes after 10 s
_POLL_SECONDS = 0.1
_RELAYED = f":flaremesh:{FRAMES}"  # end of NVFlare's name for what a relay link sends
_NVFLARE_UNIT = 1 << 20  # bytes

FIRST_FAILURE: Final = "first_failure"
"""Key of a job's meta: the site whose process failed first, unless the job was aborted before."""


class ServerAgent(Agent):
    """Also shows the metrics that sites share, and gives jobs that an earlier process left a final status."""

    # the jobs, then NVFlare's shutdown_period for sites to leave, and room for a busy machine
    stop_seconds = 40.0
    certificate = "server.crt"
    participant = SERVER

    def start(self, fl_ctx: FLContext) -> None:
        """See Agent.start."""
        self._started = False
        self._failures: dict[str, str] = {}
        # before the job runner starts: whatever is RUNNING now is not
        self._runner = self.engine.get_component(SystemComponents.JOB_RUNNER)
        self._runner.update_unfinished_jobs(fl_ctx)
        super().start(fl_ctx)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """See Agent.handle_event."""
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.SYSTEM_START:
            hear_failures(self.engine.get_cell(), self._note_failure)
            hear(self.engine.get_cell(), METRICS, self._take_metrics)
            self._started = True
        elif event_type in (EventType.JOB_COMPLETED, EventType.JOB_ABORTED):
            self._keep_failure(fl_ctx)

    def collectors(self) -> list[Collector]:
        """See Agent.collectors."""
        self._metrics = SharedMetrics(super().collectors())
        return [self._metrics]

    def missing(self) -> Sequence[str]:
        """See Agent.missing."""
        return [] if self._started else ["starting"]

    def running_jobs(self) -> Collection[str]:
        """See Agent.running_jobs."""
        return list(self._runner.running_jobs)

    def collect(self) -> Iterable[Family]:
        """See Agent.collect."""
        yield gauge(AgentMetric.REGISTERED_SITES, len(self.engine.get_clients()))
        traffic = AgentMetric.SERVER_BYTES.value
        family = CounterMetricFamily(traffic.full_name, traffic.help, labels=traffic.labels)
        for kind, count in self._traffic().items():
            family.add_metric([kind], count)
        yield family

    def _traffic(self) -> dict[str, float]:
        """Bytes by kind, as NVFlare counts them; what it forwards counts once, with what it sends."""
        megabytes = {"relay": 0.0, "control": 0.0}
        cell = self.engine.get_cell()
        if cell is not None:  # it comes with the end of the start
            core = cell.core_cell
            for pool in (core.sent_msg_size_pool, core.received_msg_size_pool):
                for category, bins in pool.to_dict()["cat_data"].items():
                    kind = "relay" if category.endswith(_RELAYED) else "control"
                    megabytes[kind] += sum(size["total"] for size in bins if size)
        return {kind: count * _NVFLARE_UNIT for kind, count in megabytes.items()}

    def _take_metrics(self, site: str, message: bytes) -> None:
        """Not from admins, and not from a site that an admin has disabled."""
        if self.engine.get_client_from_name(site):
            self._metrics.take(site, message)

    def _note_failure(self, site: str, job_id: str) -> None:
        """Remember who failed first: where no controller was up yet, nobody else knows why the job did."""
        running = self._runner.running_jobs.get(job_id)  # None while it is being started
        if (running and running.run_aborted) or job_id in self._failures:
            return
        self._failures[job_id] = site

    def _keep_failure(self, fl_ctx: FLContext) -> None:
        """Write it to the job's meta, after NVFlare has written there for the last time."""
        job_id = fl_ctx.get_prop(FLContextKey.EVENT_DATA)[JobMetaKey.JOB_ID.value]
        if site := self._failures.pop(job_id, None):
            jobs = self.engine.get_component(SystemComponents.JOB_MANAGER)
            jobs.update_meta(job_id, {FIRST_FAILURE: site}, fl_ctx)

    def stop(self) -> None:
        """Abort the jobs and wait until their status is stored, then shut down."""
        with self.engine.new_context() as fl_ctx:
            for job in self.running_jobs():
                self._runner.stop_run(job, fl_ctx)
        deadline = time.monotonic() + _JOB_SECONDS
        while self.running_jobs() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        self.engine.shutdown_server()
        # NVFlare's main thread would go on for 5 s
        while self.engine.server.status != ServerStatus.SHUTDOWN:
            time.sleep(_POLL_SECONDS)
