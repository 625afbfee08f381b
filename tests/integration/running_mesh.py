"""A mesh of real NVFlare processes for tests."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from flaremesh.deploy.runs.run import run
from flaremesh.deploy.targets.local import LocalTarget
from flaremesh.p2p.agents.agent import AGENT_FILE
from flaremesh.p2p.outcome import RunResult
from flaremesh.p2p.progress import RunProgress
from flaremesh.provision.kits import provision
from flaremesh.topology.load import load
from flaremesh.topology.schema import LinkAddress, Meet
from flaremesh.waiting import wait_while
from ports import LinkPorts, free_port

START_SECONDS = 120.0
RING = Path(__file__).parents[2] / "provision" / "ring3-consensus.yaml"


class RunningMesh:
    """The mesh of a topology file, on free ports of this machine.

    Args:
        folder: of the mesh.
        file: the topology file, by default of a ring of three.
        host: what leads to this machine, for the server and for links.
        meets: whether there is a meeting point beside the server.
        sections: of the topology, instead of the file's.
    """

    def __init__(
        self,
        folder: Path,
        file: Path = RING,
        host: str = "localhost",
        meets: bool = False,
        **sections: Any,
    ):
        self.folder = folder
        topology = load(file)
        place = {"host": host, "port": free_port()} | ({"meet": Meet(port=free_port())} if meets else {})
        server = topology.server.model_copy(update=place)
        self._ports = LinkPorts(len(topology.sites))
        sites = [
            site.model_copy(update={"link": LinkAddress(host=host, ports=f"{low}-{high}")})
            for site, (low, high) in zip(topology.sites, self._ports.ranges, strict=True)
        ]
        self.topology = topology.model_copy(update={"server": server, "sites": tuple(sites)} | sections)
        self.target = LocalTarget(self.topology, folder)
        provision(self.topology, folder)

    def release(self) -> None:
        """Let other meshes have the ports."""
        self._ports.release()

    def workspace(self, name: str) -> Path:
        return self.folder / "local" / name

    def process(self, name: str) -> psutil.Process:
        processes = json.loads((self.folder / "local" / "processes.json").read_text())
        return psutil.Process(processes[name]["pid"])

    def get(self, name: str, path: str) -> tuple[int, str]:
        url = json.loads((self.workspace(name) / AGENT_FILE).read_text())["url"]
        try:
            with urllib.request.urlopen(url + path, timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def run(
        self,
        name: str,
        show: Callable[[str, RunProgress], None] = lambda *_: None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> RunResult:
        """The result of the topology's run, which must finish; ``show`` and ``warn`` are those of `run`."""
        result = run(self.topology, self.target, self.folder, name, show, threading.Event(), warn)
        assert result.outcome == "finished", result.reason
        return result

    def missing(self, name: str) -> list[str]:
        return list(json.loads(self.get(name, "/readyz")[1])["missing"])

    def metric(self, participant: str, name: str, **labels: str) -> float | None:
        """The value of the only series with these labels, None if there is none."""
        found = self.series(participant, name, labels)
        assert len(found) <= 1
        return found[0].value if found else None

    def iteration(self, site: str, run_id: str) -> float:
        """How far a run is at a site; 0 before it has begun."""
        return sum(
            self.metric(site, "current_iteration", slot=slot) or 0 for slot in self.slots(site, run_id)
        )

    def slots(self, site: str, run_id: str) -> list[str]:
        """The slot of a run, if it has one."""
        return [info.labels["slot"] for info in self.series(site, "run_info", {"run_id": run_id})]

    def job_process(self, site: str, run_id: str) -> psutil.Process:
        (job,) = (child for child in self.process(site).children() if run_id in child.cmdline())
        return job

    def series(self, participant: str, name: str, labels: Mapping[str, str]) -> list[Sample]:
        """The series with these labels."""
        families = text_string_to_metric_families(self.get(participant, "/metrics")[1])
        return [
            sample
            for family in families
            for sample in family.samples
            if sample.name == f"flaremesh_{name}" and labels.items() <= sample.labels.items()
        ]


@contextmanager
def running_mesh(folder: Path, file: Path = RING, **sections: Any) -> Iterator[RunningMesh]:
    """A mesh that is up; the arguments are those of RunningMesh."""
    mesh = RunningMesh(folder, file, **sections)
    try:
        mesh.target.up(START_SECONDS)
        yield mesh
    finally:
        mesh.target.down()
        mesh.release()


def wait_until(condition: Callable[[], Any], seconds: float) -> None:
    """Wait until a condition holds."""
    assert not wait_while(lambda: not condition(), seconds, 0.05), "it did not come true in time"
