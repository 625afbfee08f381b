"""A mesh of real NVFlare processes, some of whose owners attack, and the run beside that must not notice."""

import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families

from flaremesh.deploy.runs.run import run
from flaremesh.deploy.runs.session import AdminSession, connect
from flaremesh.deploy.targets.local import LocalTarget
from flaremesh.p2p.agents.agent import AGENT_FILE
from flaremesh.p2p.gate import order
from flaremesh.p2p.outcome import RunResult
from flaremesh.p2p.progress import RunProgress
from flaremesh.provision.job import write_job
from flaremesh.provision.kits import provision
from flaremesh.runtime.simulate import simulation_of
from flaremesh.topology.load import load
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import Topology
from flaremesh.waiting import wait_while
from ports import LinkPorts, free_port

PACKAGES = Path(__file__).parent / "packages"
SITES = ("adam", "berta", "carol")
HONEST = SITES[:2]
"""They run beside the attack; in that run carol, a member of the mesh, is nobody's neighbour."""
LEAD = "lead@elsewhere.org"
MODEL = {"dimension": 8}
ITERATIONS = 3000
"""A minute of them, unless somebody tells the run to hurry."""
END_SECONDS = 60.0
REFUSED_SECONDS = 10.0
"""Within so long a job that no site lets in has come to nothing."""
_SOCKET = "intruder.socket"


class AttackedMesh:
    """Three sites, each of which may be the others' neighbour, and a lead of another organisation.

    Args:
        folder: of the mesh; a short path, for the sake of sockets in it.
        intruders: participants whose owners attack.
        target: makes what starts it, from topology and folder.
        sections: of the topology file.
    """

    def __init__(
        self,
        folder: Path,
        intruders: Collection[str] = (),
        target: Callable[[Topology, Path], LocalTarget] = LocalTarget,
        **sections: Any,
    ):
        self.folder = folder
        self._ports = LinkPorts(len(SITES))
        document = {
            "apiVersion": "flaremesh/v1",
            "name": "attacked",
            "server": {"host": "localhost", "port": free_port(), "org": "consortium"},
            "admins": [
                {"email": "admin@example.org", "org": "consortium", "role": "project_admin"},
                {"email": LEAD, "org": "elsewhere", "role": "lead"},
            ],
            "sites": [
                {"name": site, "org": f"{site}s", "link": {"host": "localhost", "ports": f"{low}-{high}"}}
                for site, (low, high) in zip(SITES, self._ports.ranges, strict=True)
            ],
            "graph": {"kind": "complete"},
            "code": {"packages": ["paced", "liar", "marked"]},
            "run": {
                "algorithm": "dgd",
                "stepsize": 0.1,
                "iterations": ITERATIONS,
                "on_loss": "fail",  # what an attack comes to is seen at once, and not after four attempts
                "problem": {"path": "paced.Paced", "args": {"hurry": str(folder / "hurry"), **MODEL}},
            },
        } | sections
        file = folder / "mesh.yaml"
        file.write_text(yaml.safe_dump(document))
        self.topology = load(file)
        self.target = target(self.topology, folder)
        provision(self.topology, folder)
        for name in intruders:
            self.corrupt(name)

    def corrupt(self, name: str) -> None:
        """Let the owner of a kit put a component of his own into it."""
        components = [{"id": "intruder", "path": "intruder.Intruder", "args": {}}]
        file = self.folder / "kits" / name / "local" / "intruder__p_resources.json"
        file.write_text(json.dumps({"format_version": 2, "components": components}))

    def release(self) -> None:
        """Let other meshes have the ports."""
        self._ports.release()

    def workspace(self, name: str) -> Path:
        return self.folder / "local" / name

    def tell(self, name: str, function: str, **arguments: Any) -> Any:
        """Let an intruder call ``module.function``; returns what that returns."""
        with Client(str(self.workspace(name) / _SOCKET)) as intruder:
            intruder.send((*function.split("."), arguments))
            well, result = intruder.recv()
        assert well, result
        return result

    def console(self, name: str) -> str:
        return self.target.console(name).read_text()

    def log(self, name: str, run_id: str) -> str:
        return (self.workspace(name) / run_id / "log.txt").read_text()

    def process(self, name: str) -> psutil.Process:
        processes = json.loads((self.folder / "local" / "processes.json").read_text())
        return psutil.Process(processes[name]["pid"])

    def job_process(self, name: str, run_id: str) -> psutil.Process:
        (job,) = (child for child in self.process(name).children() if run_id in child.cmdline())
        return job

    def get(self, name: str, path: str) -> bytes:
        url = json.loads((self.workspace(name) / AGENT_FILE).read_text())["url"]
        with urllib.request.urlopen(url + path, timeout=30) as reply:
            return bytes(reply.read())

    def refused(self, site: str, peer: str) -> float:
        """How much that claimed to come from ``peer`` a site has refused and counted, for whatever reason."""
        families = text_string_to_metric_families(self.get(site, "/metrics").decode())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == "flaremesh_exchange_failures_total" and sample.labels.get("peer") == peer
        )

    def run_of(self, *sites: str, **changes: Any) -> Topology:
        """The topology of a run of these sites, each the others' neighbour."""
        taking_part = tuple(site for site in self.topology.sites if site.name in sites)
        changed = self.topology.run.model_copy(update=changes)
        return self.topology.model_copy(update={"sites": taking_part, "run": changed})

    @contextmanager
    def session(self, admin: str = LEAD) -> Iterator[AdminSession]:
        (known,) = (known for known in self.topology.admins if known.email == admin)
        with connect(self.topology.model_copy(update={"admins": (known,)}), self.folder) as session:
            yield session

    def job(self, folder: Path, **changes: Any) -> Path:
        """An honest job of all sites, before somebody tampers with it."""
        write_job(self.run_of(*SITES, **changes), folder, name="job")
        return folder

    def refusals(self, job: Path, admin: str = LEAD) -> dict[str, str]:
        """Submit a job that must come to nothing; returns what each site says about it."""
        seal(job)
        with self.session(admin) as session:
            run_id = session.submit(job)
            if not session.wait(run_id, REFUSED_SECONDS):
                session.abort(run_id, END_SECONDS)
                raise AssertionError("it was let in")
            ended = session.job(run_id)
        assert ended.status != "FINISHED:COMPLETED", "it ran"
        told = (detail.partition(": ") for detail in ended.details)
        return {site: reason for site, _, reason in told if site in SITES and reason != "OK"}

    def run(self, topology: Topology) -> RunResult:
        """How a run ends, as the admin is told."""
        target = LocalTarget(topology, self.folder)
        return run(topology, target, self.folder, "run", lambda *_: None, threading.Event())

    @contextmanager
    def beside(self, **changes: Any) -> Iterator["RunBeside"]:
        """An honest run of the honest sites, which iterates until the end of the block."""
        hurry = self.folder / f"hurry-{time.monotonic_ns()}"
        problem = self.topology.run.problem.model_copy(update={"args": {"hurry": str(hurry), **MODEL}})
        topology = self.run_of(*HONEST, problem=problem, **changes)
        with ThreadPoolExecutor(1) as pool:
            beside = RunBeside(self, topology, hurry, pool)
            try:
                wait_until(lambda: beside.iteration > 0, END_SECONDS)
                yield beside
            except BaseException:
                beside.stop.set()
                raise
            finally:
                hurry.touch()


class RunBeside:
    """A run that must end as if nobody had attacked."""

    def __init__(self, mesh: AttackedMesh, topology: Topology, hurry: Path, pool: ThreadPoolExecutor):
        self.run_id, self.iteration = "", 0
        self.stop = threading.Event()
        self._mesh, self._topology, self._hurry = mesh, topology, hurry
        target = LocalTarget(topology, mesh.folder)
        self._result = pool.submit(run, topology, target, mesh.folder, "beside", self._show, self.stop)

    def _show(self, run_id: str, progress: RunProgress) -> None:
        self.run_id = run_id
        self.iteration = min((site.iteration for site in progress.sites.values()), default=0)

    def going_on(self) -> bool:
        return not self._result.done()

    def result(self) -> RunResult:
        """How it ended, once nothing keeps it from hurrying."""
        self._hurry.touch()
        return self._result.result(END_SECONDS)

    def learnt_what_it_should(self) -> bool:
        """Whether it ends, and each site has learnt the same, to the bit, as without an attack."""
        result = self.result()
        assert result.outcome == "finished", result.reason
        with simulation_of(self._topology.run, build(self._topology)) as undisturbed:
            undisturbed.run()
        for name, site in undisturbed.sites.items():
            site.save(expected := self._mesh.folder / "expected.safetensors")
            learnt = self._mesh.folder / "runs" / self.run_id / name / "model.safetensors"
            if learnt.read_bytes() != expected.read_bytes():
                return False
        return True


def seal(job: Path) -> None:
    """Order what a job now is, as a submitter does who has tampered with his own job."""
    for file in job.glob("*/config/order.json"):
        app = file.parents[1]
        order.write(order.read(app), app)


@contextmanager
def attacked_mesh(folder: Path, intruders: Collection[str] = (), **sections: Any) -> Iterator[AttackedMesh]:
    """A mesh that is up."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGES), before]))
    mesh = AttackedMesh(folder, intruders, **sections)
    with ExitStack() as stack:
        stack.callback(mesh.release)
        stack.callback(mesh.target.down)
        mesh.target.up(120.0)
        yield mesh


def wait_until(condition: Callable[[], Any], seconds: float) -> None:
    assert not wait_while(lambda: not condition(), seconds, 0.05), "it did not come true in time"
