"""NVFlare's own peer-to-peer package on a wide-area network: server and sites in namespaces of their own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from typing_extensions import override

from bench.mesh import JobFailed, running
from bench.processes import Place, Round
from bench.samples import STOCK
from bench.topologies import topology_of
from bench.wan.cases import Case
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


def measure(case: Case, rounds: list[Round], congestion: str, folder: Path) -> list[list[dict[str, Any]]]:
    """Figures of the meter: of each round, those of every site.

    Raises:
        JobFailed: the job did not finish.
    """
    names = [site.name for site in topology_of(case.sites).sites]
    with joined((SERVER, *names), case.way.shape, congestion) as network:
        places = network.places
        topology = topology_of(case.sites, [place.host for place in places.values()])
        # whoever submits is where the server is
        with (
            entered(str(places[SERVER].namespace)),
            running(topology, folder, "relay", lambda *mesh: PlacedTarget(*mesh, places)) as mesh,
        ):
            job = mesh.run(STOCK, "Exchange", {"rounds": [vars(each) for each in rounds]})
    sites = [site.get("figures", {}) for site in job.sites]
    if any(len(figures) < len(rounds) for figures in sites):
        raise JobFailed("a site stopped early, which the stock package does not call a failure")
    return [[figures[str(each.floats)] for figures in sites] for each in rounds]
