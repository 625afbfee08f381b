"""What the agents of sites and of the server have in common."""

import json
import os
import shutil
import socket
import threading
import time
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cryptography.x509 import load_pem_x509_certificate
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from flaremesh import atomic
from flaremesh.hosts import at
from flaremesh.metrics.ask import HOST_VARIABLE, PORT, PORT_VARIABLE
from flaremesh.metrics.exporter import Document, Exporter
from flaremesh.metrics.names import AgentMetric
from flaremesh.p2p.agents.doctor import Doctor, Edge, Meeting, Report, examine, versions
from flaremesh.p2p.agents.janitor import Retention, sweep, sweep_stores
from flaremesh.p2p.agents.kit import PATH as KIT_PATH
from flaremesh.p2p.agents.kit import Kit
from flaremesh.p2p.agents.termination import on_termination
from flaremesh.p2p.nvflare import ipv6
from flaremesh.p2p.nvflare.startup import startup_files

AGENT_FILE: Final = "agent.json"
"""File in the workspace that says where the agent serves: ``{"url": ..., "pid": ...}``."""

_EVERYWHERE = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"
_HERE = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}
_SWEEP_SECONDS = 3600.0


class Agent(FLComponent):
    """Serves metrics, readiness and a report, stops its process in order, and removes old run folders.

    Args:
        port: port to serve on; FLAREMESH_METRICS_PORT overrides it, FLAREMESH_METRICS_HOST sets the address.
        keep_runs: how many of the last runs' folders to keep.
        keep_days: for how many days to keep a run's folder.
        kit: digest, files and packages of Kit; None in kits of earlier versions.
    """

    stop_seconds: float
    """Seconds that the orderly stop may take."""

    participant: str
    """Its name; known once the agent has started."""

    certificate_expiry: float
    """When the certificate with which the process started ends, Unix time."""

    gpus: int = 0
    """How many GPUs the participant is to have."""

    def __init__(
        self,
        port: int = PORT,
        keep_runs: int = 50,
        keep_days: float = 30.0,
        kit: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        ipv6.admit()  # NVFlare makes its components before it dials or listens
        self._port = port
        self._kit = kit
        self._retention = Retention(keep_runs, keep_days)
        self._stopping = False
        self._sweeping = threading.Lock()
        self._doctor = Doctor(self._examine)
        self.workspace = Path()

    @abstractmethod
    def missing(self) -> Sequence[str]:
        """What keeps the participant from taking part in a run."""

    @abstractmethod
    def running_jobs(self) -> Collection[str]:
        """Ids of the jobs whose process runs here."""

    @abstractmethod
    def collect(self) -> Iterable[Family]:
        """Metrics of this kind of agent."""

    @abstractmethod
    def stop(self) -> None:
        """Leave the mesh; the process ends when this returns."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Start when the process does."""
        if event_type == EventType.SYSTEM_BOOTSTRAP:
            self.workspace = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir())
            self.start(fl_ctx)

    @property
    def kit_digest(self) -> str | None:
        """Digest of the kit with which the process was started."""
        return str(self._kit["digest"]) if self._kit else None

    def start(self, fl_ctx: FLContext) -> None:
        """Begin to listen to signals, to serve and to sweep."""
        # NVFlare, too, goes on with the certificate that was there when the process started
        pem = startup_files(self.workspace / "startup").certificate.read_bytes()
        self.certificate_expiry = load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
        on_termination(self._stop, self.stop_seconds)
        self._serve(fl_ctx)
        threading.Thread(target=self._sweep_for_ever, name="janitor", daemon=True).start()

    def runs_over(self) -> Collection[str]:
        """Names of the stores of runs that get no further attempt, as far as this participant knows."""
        return ()

    def edges(self) -> Sequence[Edge]:
        """Try the direct edges that the participant dials."""
        return []

    def meeting(self) -> Meeting | None:
        """Try the way to the meeting point, of a site whose mesh has one."""
        return None

    def addresses(self) -> Mapping[str, Any]:
        """Fields of Kit that say where the participant is dialled and where it dials."""
        return {}

    def documents(self) -> dict[str, Document]:
        """What is served, by path, to those who ask from this machine."""
        if self._kit is None:
            return {}
        kit = Kit(**self._kit, **self.addresses()).model_dump_json().encode() + b"\n"
        return {KIT_PATH: lambda query: kit}

    def collectors(self) -> list[Collector]:
        """What is exported."""
        return [_AgentMetrics(self)]

    def sweep(self) -> None:
        """Remove the run folders and the stores that are no longer kept."""
        with self._sweeping:
            try:
                # first, because a run's folder says whether the run has finished
                over = self.runs_over()
                sweep(self.workspace, self.running_jobs(), self._retention)
                sweep_stores(self.workspace, self.running_jobs(), over, self._retention.days)
            except OSError as error:  # e.g. NVFlare moved a folder away meanwhile
                self.logger.warning("old run folders and stores stay for now: %s", error)

    def why_not_ready(self) -> Sequence[str]:
        """What is missing, or that the process is stopping."""
        return ["stopping"] if self._stopping else self.missing()

    def _serve(self, fl_ctx: FLContext) -> None:
        host = os.environ.get(HOST_VARIABLE, _EVERYWHERE)
        port = os.environ.get(PORT_VARIABLE, self._port)
        file = self.workspace / AGENT_FILE
        file.unlink(missing_ok=True)
        try:
            exporter = Exporter(
                host, int(port), self.collectors(), self.why_not_ready, self._report, self.documents()
            )
        except (OSError, ValueError, OverflowError) as error:
            self.log_error(
                fl_ctx,
                f"no metrics and no readiness: cannot serve on {host}, port {port} ({error}). "
                f"Free the port, or choose another one with {PORT_VARIABLE}, and start again.",
            )
            return
        self.log_info(fl_ctx, f"serving metrics and readiness on {at(host, exporter.port)}")
        url = f"http://{at(_HERE.get(host, host), exporter.port)}"
        atomic.write(file, json.dumps({"url": url, "pid": os.getpid()}) + "\n")

    def _examine(self) -> Report:
        return examine(
            self.participant,
            self.workspace,
            self.why_not_ready(),
            self.certificate_expiry,
            self.gpus,
            self.edges(),
            self.meeting(),
        )

    def _report(self) -> tuple[bool, bytes]:
        report = self._doctor.report()
        return not report.findings, report.to_json()

    def _stop(self) -> None:
        self._stopping = True
        self.stop()

    def _sweep_for_ever(self) -> None:
        while True:
            self.sweep()
            time.sleep(_SWEEP_SECONDS)


class _AgentMetrics(Collector):
    def __init__(self, agent: Agent):
        self._agent = agent

    def collect(self) -> Iterable[Family]:
        info = gauge(AgentMetric.BUILD_INFO)
        info.add_metric(list(versions().values()), 1)
        yield info
        yield gauge(AgentMetric.CERTIFICATE_EXPIRY, self._agent.certificate_expiry)
        yield gauge(AgentMetric.READY, not self._agent.why_not_ready())
        disk = shutil.disk_usage(self._agent.workspace)
        yield gauge(AgentMetric.WORKSPACE_SIZE, disk.total)
        yield gauge(AgentMetric.WORKSPACE_FREE, disk.free)
        yield gauge(AgentMetric.RUNNING_JOBS, len(self._agent.running_jobs()))
        yield from self._agent.collect()


def counter(metric: AgentMetric, value: float | None = None) -> CounterMetricFamily:
    """A counter without labels and its value, or one that waits for its labelled values."""
    return CounterMetricFamily(
        metric.value.full_name, metric.value.help, value=value, labels=metric.value.labels or None
    )


def gauge(metric: AgentMetric, value: float | None = None) -> GaugeMetricFamily:
    """A gauge without labels and its value, or one that waits for its labelled values."""
    return GaugeMetricFamily(
        metric.value.full_name, metric.value.help, value=value, labels=metric.value.labels or None
    )
