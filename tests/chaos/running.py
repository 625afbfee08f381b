"""Runs that can be struck: how far each of their attempts is, and what they leave behind."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from running_mesh import RunningMesh

from flaremesh.deploy.runs.run import run
from flaremesh.p2p import attempt
from flaremesh.p2p.nvflare.processes import JOB_MODULES
from flaremesh.p2p.outcome import RUN_FOLDER, RunResult
from flaremesh.p2p.store import STORES
from flaremesh.runtime.history import HISTORY
from flaremesh.topology.schema import CirculantGraph, ProblemReference, Topology, Wire
from flaremesh.waiting import wait_while

EVERY = 20
"""Iterations between checkpoints, as the topology file has it."""
POLL_SECONDS = 0.01
HANG_SECONDS = 120.0
"""No run stands still for longer, whatever has struck it."""

_LOOK_SECONDS = 0.2  # between two looks for further attempts
_LAST_BYTES = 4096  # of a history: more than two of its lines


@dataclass(frozen=True)
class Kind:
    """What a run computes, and how its vectors travel."""

    algorithm: str
    wire: str

    def __str__(self) -> str:
        return f"{self.algorithm}-{self.wire}"

    def topology(self, mesh: Topology) -> Topology:
        """The mesh with such a run."""
        changed: dict[str, Any] = {"algorithm": self.algorithm, "wire": Wire.of(self.wire)}
        if self.algorithm in ("push-sum", "consensus"):
            slow = {"file": mesh.run.problem.file, "name": "SlowConsensus", "args": {"dimension": 32768}}
            changed |= {"problem": ProblemReference.model_validate(slow), "stepsize": None}
        if self.algorithm == "gtadam":
            changed["stepsize"] = 0.005
        graph: dict[str, Any] = {}
        if self.algorithm == "push-sum":
            graph = {"graph": CirculantGraph(kind="ring", directed=True), "weights": "push-sum"}
        return mesh.model_copy(update={"run": mesh.run.model_copy(update=changed)} | graph)


_ALGORITHMS = ("gradient-tracking", "gtadam", "push-sum", "gradient-tracking-atc", "consensus")
_WIRES = ("float32", "top-k", "int8", "bfloat16")
KINDS = [Kind(_ALGORITHMS[number % 5], _WIRES[number % 4]) for number in range(20)]
"""Each algorithm with each wire, and the first four or five with all of them."""


class Hung(AssertionError):
    """A run stood still."""


class Running:
    """A run in a thread, which is seen through the histories that its sites write.

    Args:
        mesh: where it runs.
        topology: with the run.
        name: of the run.

    Attributes:
        told: what its user was told, and when.
        sites: their names.
    """

    def __init__(self, mesh: RunningMesh, topology: Topology, name: str):
        self.mesh = mesh
        self.told: list[tuple[float, str]] = []
        self.sites = [site.name for site in topology.sites]
        self._stop = threading.Event()
        self._earlier = self._histories(*self.sites)
        self._stores = set(self._all_stores())
        self._looked: dict[str, tuple[float, list[Path]]] = {}
        self._result: Future[RunResult] = Future()
        arguments = (topology, mesh.target, mesh.folder, name, lambda *_: None, self._stop, self._hear)
        threading.Thread(target=self._run, args=arguments, name=name, daemon=True).start()

    def reached(self, site: str) -> list[int]:
        """How many iterations each attempt has done at a site, as far as they have begun there."""
        return [_last_iteration(file) for file in self._begun(site)]

    def iteration(self, site: str) -> int:
        """How far the last attempt is."""
        return (self.reached(site) or [0])[-1]

    def job_processes(self, participant: str) -> list[psutil.Process]:
        """The processes of its jobs."""
        children = self.mesh.process(participant).children()
        return [child for child in children if not JOB_MODULES.isdisjoint(_command(child))]

    def job_process(self, participant: str) -> psutil.Process:
        """The process of the only job there."""
        (job,) = self.job_processes(participant)
        return job

    def losses(self) -> list[float]:
        """When the user was told that the run was lost and goes on."""
        return [when for when, text in self.told if "goes on once all are back" in text]

    def submitted(self) -> float | None:
        """When the server submitted the last further attempt, by its log; None before."""
        log = (self.mesh.workspace("server") / "log.txt").read_text()
        lines = [line for line in log.splitlines() if "the run goes on as the job" in line]
        if not lines:
            return None
        when, milliseconds = lines[-1].split(" - ")[0].split(",")
        ago = time.time() - datetime.fromisoformat(when).timestamp() - int(milliseconds) / 1000
        return time.monotonic() - ago

    def began_at(self) -> int:
        """The iteration from whose checkpoint the last attempt began."""
        last = attempt.read(self._store("server"))
        assert last is not None
        return last.began_at

    def checkpoints(self, site: str) -> Path:
        """The folder of the run's checkpoints at a site."""
        return self._store(site) / "checkpoints"

    def unheard(self) -> int:
        """How often the server has missed a site, and a run has waited for it."""
        return (self.mesh.workspace("server") / "log.txt").read_text().count(" is not heard: the job ")

    def log(self, site: str) -> str:
        """What the last attempt's process at a site has logged."""
        return (self._begun(site)[-1].parents[1] / "log.txt").read_text()

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait until it holds.

        Raises:
            Hung: it does not come to that.
        """

        def pending() -> bool:
            if condition():
                return False
            if self._result.done():
                raise AssertionError(f"the run ended before {what}: {self._result.result().reason}")
            return True

        if wait_while(pending, HANG_SECONDS, POLL_SECONDS):
            raise Hung(f"{what}: not within {HANG_SECONDS:g} s; {self.state()}")

    def result(self) -> RunResult:
        """The result of the run, which must finish.

        Raises:
            AssertionError: it has not.
        """
        try:
            result = self._result.result(HANG_SECONDS)
        except TimeoutError:
            raise Hung(f"the run has no end after {HANG_SECONDS:g} s; {self.state()}") from None
        assert result.outcome == "finished", result.reason
        return result

    def has_finished(self) -> bool:
        """Whether it has come to its end, and its result is here."""
        return self._result.done() and self.result().outcome == "finished"

    def abort(self) -> None:
        """End it, if it has not ended."""
        self._stop.set()
        with suppress(TimeoutError):
            self._result.exception(HANG_SECONDS)

    def state(self) -> str:
        """What can be said of a run that stands still."""
        processes = json.loads((self.mesh.folder / "local" / "processes.json").read_text())
        lines = [f"{name}: {_status(entry['pid'])}" for name, entry in processes.items()]
        reached = {site: self.reached(site) for site in self.sites}
        return "\n  ".join(
            [f"iterations {reached}, told {self.told}; logs in {self.mesh.folder / 'local'}", *lines]
        )

    def _store(self, participant: str) -> Path:
        new = (store for store in self._all_stores() if store not in self._stores)
        (store,) = (store for store in new if store.parents[1].name == participant)
        return store

    def _begun(self, site: str) -> list[Path]:
        looked, begun = self._looked.get(site, (0.0, []))
        if time.monotonic() - looked > _LOOK_SECONDS:
            new = self._histories(site) - self._earlier - {*begun}
            begun = [*begun, *sorted(new, key=lambda file: file.parent.stat().st_mtime)]
            self._looked[site] = time.monotonic(), begun
        return begun

    def _histories(self, *sites: str) -> set[Path]:
        return {
            file for site in sites for file in self.mesh.workspace(site).glob(f"*/{RUN_FOLDER}/{HISTORY}")
        }

    def _all_stores(self) -> list[Path]:
        return [*(self.mesh.folder / "local").glob(f"*/{STORES}/*")]

    def _hear(self, text: str) -> None:
        self.told.append((time.monotonic(), text))

    def _run(self, *arguments: Any) -> None:
        try:
            self._result.set_result(run(*arguments))
        except BaseException as error:  # noqa: BLE001  # it is raised where the result is asked for
            self._result.set_exception(error)


def _last_iteration(file: Path) -> int:
    with file.open("rb") as history:
        history.seek(max(0, history.seek(0, 2) - _LAST_BYTES))
        lines = history.read().split(b"\n")[:-1]
    return int(json.loads(lines[-1])["iteration"]) if lines else 0


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def _status(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        jobs = [f"{child.pid} {child.status()}" for child in process.children(recursive=True)]
        return f"{pid} {process.status()}, its children {jobs}"
    except psutil.NoSuchProcess:
        return f"{pid} is gone"
