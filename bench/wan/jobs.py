"""Jobs of NVFlare on a wide-area network: its server and its sites in namespaces of their own."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.comparison import Comparison
from bench.mesh import JobFailed, RunningMesh, running
from bench.plan import FULL
from bench.processes import ROOT, Round
from bench.samples import LEARNING, STOCK, TRAINING, Samples
from bench.topologies import topology_of
from bench.wan.cases import Case, Way
from bench.wan.namespaces import entered
from bench.wan.network import joined
from bench.wan.placed import PlacedTarget
from flaremesh.deploy.targets.local import LocalTarget
from flaremesh.topology.schema import SERVER, Topology


def exchange(
    system: str, case: Case, rounds: Sequence[Round], congestion: str, folder: Path
) -> list[list[dict[str, Any]]]:
    """The meter's figures of the stock package, or of edges that meet: of each round, those of every site.

    Raises:
        JobFailed: a job did not finish.
    """
    task = {"case": asdict(case), "rounds": [asdict(each) for each in rounds], "congestion": congestion}
    task["system"] = system
    figures: list[list[dict[str, Any]]] = _apart(task, folder)
    return figures


def train(case: Case, turn: int, congestion: str, folder: Path) -> dict[str, dict[str, float]]:
    """Seconds until every site is accurate enough, by case and system; see Comparison.training.

    Raises:
        JobFailed: the mesh did not come up.
    """
    task = {"case": asdict(case), "turn": turn, "congestion": congestion}
    seconds: dict[str, dict[str, float]] = _apart(task, folder)
    return seconds


def _apart(task: Mapping[str, Any], folder: Path) -> Any:
    """In a process of its own, since NVFlare's threads stay in the namespace in which they began."""
    folder.mkdir(parents=True, exist_ok=True)
    told = folder.with_name("jobs.json")
    ended = subprocess.run(
        [sys.executable, "-m", "bench.wan.jobs", str(folder), str(told)],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if ended.returncode:
        raise JobFailed(f"jobs of {task['case']['sites']} sites failed:\n{ended.stderr}")
    return json.loads(told.read_text())


@contextmanager
def _mesh(way: Way, count: int, congestion: str, folder: Path) -> Iterator[RunningMesh]:
    names = [site.name for site in topology_of(count).sites]
    with joined((SERVER, *names), way.shape, congestion, wide=SERVER) as network:
        places = network.places
        topology = topology_of(count, [place.host for place in places.values()])

        def target_of(topology: Topology, mesh: Path) -> LocalTarget:
            return PlacedTarget(topology, mesh, places)

        # whoever submits is where the server is
        with (
            entered(str(places[SERVER].namespace)),
            running(topology, folder, "direct", target_of) as mesh,
        ):
            yield mesh


def _meet(mesh: RunningMesh, rounds: Sequence[Round]) -> list[list[dict[str, Any]]]:
    comparison = Comparison(mesh, FULL, Samples())
    return [[*map(dict, comparison.measured(each, links="met")[each.floats])] for each in rounds]


def _exchange(mesh: RunningMesh, rounds: Sequence[Round]) -> list[list[dict[str, Any]]]:
    job = mesh.run(STOCK, "Exchange", {"rounds": [vars(each) for each in rounds]})
    sites = [site.get("figures", {}) for site in job.sites]
    if any(len(figures) < len(rounds) for figures in sites):
        raise JobFailed("a site stopped early, which the stock package does not call a failure")
    return [[figures[str(each.floats)] for figures in sites] for each in rounds]


def _train(mesh: RunningMesh, turn: int) -> dict[str, dict[str, float]]:
    samples = Samples()
    Comparison(mesh, FULL, samples).training(turn)
    return {
        row.case: {name: found.median for name, found in row.systems.items() if found.median is not None}
        for row in samples.rows()
        if row.case in (TRAINING, LEARNING)
    }


def main() -> None:
    task = json.load(sys.stdin)
    folder, told = map(Path, sys.argv[1:])
    with _mesh(Way(**task["case"]["way"]), task["case"]["sites"], task["congestion"], folder) as mesh:
        if "turn" in task:
            found: Any = _train(mesh, task["turn"])
        else:
            rounds = [Round(**each) for each in task["rounds"]]
            found = _exchange(mesh, rounds) if task["system"] == STOCK else _meet(mesh, rounds)
    told.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
