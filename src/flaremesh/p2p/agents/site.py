"""The agent of a site."""

import os
import threading
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from flaremesh.metrics import slots
from flaremesh.metrics.names import AgentMetric
from flaremesh.metrics.prometheus import DIRECTORY_VARIABLE, RunMetrics
from flaremesh.p2p.agents.agent import Agent, gauge


class SiteAgent(Agent):
    """Also serves the metrics of the site's runs, which their processes leave in a shared directory.

    The directory is ``metrics`` in the workspace unless PROMETHEUS_MULTIPROC_DIR names another one, e.g. in
    memory; it must belong to this site alone, and is emptied when the site starts.
    """

    # a job process is given 10 s to end (NVFlare's limit), the logout and the end of the process take 5 s
    stop_seconds = 25.0
    certificate = "client.crt"

    def start(self, fl_ctx: FLContext) -> None:
        """See Agent.start."""
        self._client = fl_ctx.get_prop(FLContextKey.SITE_OBJ)
        self._metrics = Path(os.environ.setdefault(DIRECTORY_VARIABLE, str(self.workspace / "metrics")))
        slots.clear(self._metrics)
        super().start(fl_ctx)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """See Agent.handle_event; every job that ends may make an older one superfluous."""
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.JOB_COMPLETED:
            self.sweep()

    def collectors(self) -> list[Collector]:
        """See Agent.collectors."""
        return [*super().collectors(), RunMetrics(self._metrics)]

    def missing(self) -> Sequence[str]:
        """See Agent.missing."""
        if not self._client.token:
            return ["not registered with the server"]
        # the heartbeat proves nothing: NVFlare counts one that timed out as well
        if FQCN.ROOT_SERVER not in self._client.cell.core_cell.agents:
            return ["no connection to the server"]
        return []

    def running_jobs(self) -> Collection[str]:
        """See Agent.running_jobs."""
        return list(self.engine.get_all_job_ids())

    def collect(self) -> Iterable[Family]:
        """See Agent.collect."""
        yield gauge(AgentMetric.REGISTERED, bool(self._client.token))

    def stop(self) -> None:
        """End the jobs, since they cannot go on without this process, then log out."""
        if not self._client.token:
            os._exit(0)  # the main thread waits for the server, and there is nothing to log out of
        aborts = [threading.Thread(target=self.engine.abort_app, args=[job]) for job in self.running_jobs()]
        for abort in aborts:
            abort.start()
        for abort in aborts:
            abort.join()
        self.engine.shutdown()
