"""NVFlare's own peer-to-peer package on a wide-area network: server and sites in namespaces of their own."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from typing_extensions import override

from bench.mesh import JobFailed, running
from bench.processes import ROOT, Place, Round
from bench.samples import STOCK
from bench.topologies import topology_of
from bench.wan.cases import Case, Way
from bench.wan.namespaces import entered
from bench.wan.network import joined
from flaremesh.deploy.targets.local import LocalTarget
from flaremesh.topology.schema import SERVER, Topology


class PlacedTarget(LocalTarget):
    """Runs every participant in its place.

    Args:
        topology, mesh: as of LocalTarget.
        places: by name.
    """

    def __init__(self, topology: Topology, mesh: Path, places: Mapping[str, Place]):
        super().__init__(topology, mesh)
        self._places = places

    @override
    def _start(self, name: str) -> psutil.Process:
        with entered(str(self._places[name].namespace)):
            return super()._start(name)

    @override
    def ask(self, participant: str, path: str) -> bytes | None:
        # an agent answers on the loopback of its own namespace
        with entered(str(self._places[participant].namespace)):
            return super().ask(participant, path)


def measure(case: Case, rounds: Sequence[Round], congestion: str, folder: Path) -> list[list[dict[str, Any]]]:
    """Figures of the meter: of each round, those of every site.

    A process of its own submits the job: NVFlare's threads stay in the namespace in which they began.

    Raises:
        JobFailed: the job did not finish.
    """
    folder.mkdir(parents=True, exist_ok=True)
    task = {"case": asdict(case), "rounds": [asdict(each) for each in rounds], "congestion": congestion}
    told = folder.with_name("stock.json")
    ended = subprocess.run(
        [sys.executable, "-m", "bench.wan.stock", str(folder), str(told)],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if ended.returncode:
        raise JobFailed(f"the stock package with {case.sites} sites failed:\n{ended.stderr}")
    figures: list[list[dict[str, Any]]] = json.loads(told.read_text())
    return figures


def _run(
    way: Way, count: int, rounds: Sequence[Round], congestion: str, folder: Path
) -> list[list[dict[str, Any]]]:
    names = [site.name for site in topology_of(count).sites]
    with joined((SERVER, *names), way.shape, congestion) as network:
        places = network.places
        topology = topology_of(count, [place.host for place in places.values()])

        def target_of(topology: Topology, mesh: Path) -> LocalTarget:
            return PlacedTarget(topology, mesh, places)

        # whoever submits is where the server is
        with (
            entered(str(places[SERVER].namespace)),
            running(topology, folder, "relay", target_of) as mesh,
        ):
            job = mesh.run(STOCK, "Exchange", {"rounds": [vars(each) for each in rounds]})
    sites = [site.get("figures", {}) for site in job.sites]
    if any(len(figures) < len(rounds) for figures in sites):
        raise JobFailed("a site stopped early, which the stock package does not call a failure")
    return [[figures[str(each.floats)] for figures in sites] for each in rounds]


def main() -> None:
    task = json.load(sys.stdin)
    folder, told = map(Path, sys.argv[1:])
    rounds = [Round(**each) for each in task["rounds"]]
    figures = _run(Way(**task["case"]["way"]), task["case"]["sites"], rounds, task["congestion"], folder)
    told.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
