"""A real NVFlare server and sites, from real kits and over mutual TLS, and the jobs of both packages."""

import json
import os
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families

from bench.jobs.clock import CLOCK
from bench.processes import ROOT
from bench.samples import FLAREMESH
from flaremesh.deploy.runs.session import AdminSession, connect
from flaremesh.deploy.targets.local import LocalTarget
from flaremesh.metrics.names import AgentMetric
from flaremesh.metrics.sink import Iteration
from flaremesh.p2p.gate import order
from flaremesh.p2p.outcome import RUN_FOLDER
from flaremesh.provision.job import write_job
from flaremesh.provision.kits import provision
from flaremesh.runtime.history import HISTORY, History
from flaremesh.sandbox.files import WRITES_VARIABLE
from flaremesh.topology.schema import SERVER, Run, Topology

_POLL_SECONDS = 0.2  # asking costs the cores that are measured some milliseconds
_JOB_SECONDS = 240.0
_UP_SECONDS = 60.0


@dataclass(frozen=True)
class Job:
    """What a job left behind.

    Attributes:
        sites: clock of each site; see ClockedExecutor.
        server: the controller's clock.
        client: Unix times at which it was handed over, accepted, seen running, had a result, and ended.
        server_bytes: that went through the server meanwhile.
        folders: of the run at each site.
    """

    sites: list[dict[str, Any]]
    server: dict[str, Any]
    client: dict[str, float]
    server_bytes: float
    folders: list[Path]

    def histories(self) -> list[list[Iteration]]:
        """The records of each site's iterations."""
        return [History.read(folder / HISTORY).iterations for folder in self.folders]


class JobFailed(Exception):
    """The message says where to look."""


class RunningMesh:
    """A mesh that is up.

    Args:
        topology, folder, session, target: see ``running``.
        links: the run option of flaremesh's jobs.
    """

    def __init__(
        self, topology: Topology, folder: Path, session: AdminSession, target: LocalTarget, links: str
    ):
        self.topology, self.folder = topology, folder
        self._session, self._target, self._links = session, target, links
        self._sites = [site.name for site in topology.sites]

    @property
    def processes(self) -> list[int]:
        """Ids of the processes of server, meeting point and sites, those of jobs not among them."""
        return [*self._participants.values(), self.meeting_point.pid]

    @property
    def meeting_point(self) -> psutil.Process:
        """The process that joins sites which cannot dial each other."""
        children = psutil.Process(self._participants[SERVER]).children()
        return next(child for child in children if "flaremesh.meeting" in child.cmdline())

    @property
    def _participants(self) -> dict[str, int]:
        """Ids of their processes, by name."""
        return {each.name: int(each.place.split()[1]) for each in self._target.participants()}

    def run(self, system: str, executor: str, args: Mapping[str, Any], **run: Any) -> Job:
        """Run one job to its end.

        Args:
            system: whose controller and executors.
            executor: class in bench.jobs' module of that system.
            args: of the executor, beside those that flaremesh writes.
            run: fields of the topology's run.

        Raises:
            JobFailed: it did not finish.
        """
        job = self.folder / "job"
        self._write(job, system, executor, args, run)
        bytes_before, client = self._server_bytes(), {"begun": time.time()}
        run_id = self._session.submit(job)
        client["submitted"] = time.time()
        deadline = time.monotonic() + _JOB_SECONDS
        while not (state := self._session.job(run_id)).ended:
            if state.status == "RUNNING":
                client.setdefault("running", time.time())
                # flaremesh's controller tells the result; of the stock package's it is downloaded at the end
                asked = system == FLAREMESH and "result" not in client
                if asked and (progress := self._session.progress(run_id)) and progress.result:
                    client["result"] = time.time()
            if time.monotonic() > deadline:
                self._session.abort(run_id, _UP_SECONDS)
            time.sleep(_POLL_SECONDS)
        client["finished"] = time.time()
        clock = self._session.download(run_id, f"{RUN_FOLDER}/{CLOCK}")
        client.setdefault("result", time.time())
        folders = [self._target.run_folder(site, run_id) for site in self._sites]
        if not state.status.endswith("COMPLETED") or not all(folders):
            raise JobFailed(f"{system}: {executor} ended with {state.status}; see {self.folder}/local")
        found = [folder for folder in folders if folder]
        return Job(
            [_clock(folder) for folder in found],
            json.loads(clock) if clock else {},
            client,
            self._server_bytes() - bytes_before,
            found,
        )

    def _write(
        self, job: Path, system: str, executor: str, args: Mapping[str, Any], fields: Mapping[str, Any]
    ) -> None:
        """Flaremesh's job, with the executor and the controller of ``system``."""
        run = self.topology.run.model_dump() | {"links": self._links, "iterations": 1, **fields}
        topology = self.topology.model_copy(update={"run": Run.model_validate(run)})
        write_job(topology, job, name=f"bench-{executor}")
        prefix = "bench.jobs.flaremesh" if system == FLAREMESH else "bench.jobs.stock"
        server_file = job / "app_server/config/config_fed_server.json"
        site_file = job / "app_sites/config/config_fed_client.json"
        server, site = json.loads(server_file.read_text()), json.loads(site_file.read_text())
        server["workflows"][0]["path"] = f"{prefix}_controllers.Controller"
        written = site["executors"][0]["executor"]
        kept = written["args"] if system == FLAREMESH and executor == "Run" else {}
        site["executors"][0]["executor"] = {
            "path": f"{prefix}_executors.{executor}",
            "args": {**kept, **args},
        }
        if system != FLAREMESH:
            del server["server"], server["dead_client_grace_period"]  # its jobs are written without
        server_file.write_text(json.dumps(server))
        site_file.write_text(json.dumps(site))
        for app in (file.parents[1] for file in (server_file, site_file)):
            order.write(order.read(app), app)

    def _server_bytes(self) -> float:
        (server,) = (p for p in self._target.participants() if p.name == SERVER)
        with urllib.request.urlopen(str(server.metrics), timeout=5) as reply:
            families = text_string_to_metric_families(reply.read().decode())
        name = AgentMetric.SERVER_BYTES.value.full_name
        return sum(s.value for family in families for s in family.samples if s.name == name)


@contextmanager
def running(
    topology: Topology,
    folder: Path,
    links: str,
    target_of: Callable[[Topology, Path], LocalTarget] = LocalTarget,
) -> Iterator[RunningMesh]:
    """Provision a mesh into ``folder``, which is emptied, and bring it up."""
    shutil.rmtree(folder, ignore_errors=True)
    provision(topology, folder)
    target = target_of(topology, folder)
    # the job processes import bench from here
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, dict.fromkeys(paths)))
    os.environ[WRITES_VARIABLE] = "/proc"  # where bench.meter lets the peak of memory begin anew
    try:
        target.up(_UP_SECONDS)
        with connect(topology, folder) as session:
            yield RunningMesh(topology, folder, session, target, links)
    finally:
        target.down()


def _clock(run_folder: Path) -> dict[str, Any]:
    file = run_folder / CLOCK
    return dict(json.loads(file.read_text())) if file.exists() else {}
