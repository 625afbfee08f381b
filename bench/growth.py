"""How a ring grows: sites in plain processes, on the cores of one machine."""

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from bench.processes import Round, run
from bench.samples import FLAREMESH, GLOO, GROWTH, TLS, Key, Samples, in_turn
from bench.topologies import topology_of
from flaremesh.provision.kits import provision
from flaremesh.topology.mesh import build

PROCESSES = {TLS: "bench.baselines.tls", GLOO: "bench.baselines.gloo", FLAREMESH: "bench.plain"}
"""What runs in a site's process, by system."""

_CORES = os.cpu_count() or 1


class Growth:
    """Rings of several sizes; the kits are those of one mesh of the largest.

    Args:
        sizes: numbers of sites.
        rounds: what each ring does.
        samples: where the figures go.
        folder: of the mesh.
    """

    def __init__(self, sizes: Sequence[int], rounds: Sequence[Round], samples: Samples, folder: Path):
        self._sizes, self._rounds, self._samples, self._folder = sizes, rounds, samples, folder
        provision(topology_of(max(sizes)), folder)

    def repeat(self, repeat: int) -> None:
        for sites in self._sizes:
            for system in in_turn(PROCESSES, repeat, f"ring of {sites}"):
                self._measure(sites, system, repeat)

    def _measure(self, sites: int, system: str, repeat: int) -> None:
        mesh = build(topology_of(sites))
        figures = run(PROCESSES[system], mesh, self._folder / "kits", self._rounds, self._folder)
        # an edge costs the time of as many cores as there are sites to use them
        share = 1e6 * min(_CORES, sites) / mesh.graph.number_of_edges()
        for number, each in enumerate(self._rounds):
            # sites without a core of their own stand still, then catch up: the mean says how fast the ring is
            means = [mean(site[number]["seconds"]) for site in figures.values()]
            key = Key(GROWTH, sites, each.floats, "µs")
            self._samples.add(key, system, repeat, [share * seconds for seconds in means])
