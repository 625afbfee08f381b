"""Where the time of an iteration goes in the thread that iterates: two plain sites, one of them profiled."""

import argparse
import cProfile
import pstats
import tempfile
from pathlib import Path
from typing import Any

from bench import plain, processes
from bench.processes import Round, Site
from bench.topologies import topology_of
from flaremesh.provision.kits import provision
from flaremesh.topology.mesh import build

_STATISTICS = "profile"


def run(site: Site) -> list[dict[str, Any]]:
    """In each site's process: bench.plain's run, profiled at the first."""
    if site.hood.site != site.sites[0]:
        return plain.run(site)
    profile = cProfile.Profile()
    figures: list[dict[str, Any]] = profile.runcall(plain.run, site)
    profile.dump_stats(site.scratch / _STATISTICS)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.profile", description=__doc__)
    parser.add_argument("--floats", type=int, default=1, help="length of the vectors")
    parser.add_argument("--iterations", type=int, default=5000)
    parser.add_argument("--lines", type=int, default=25, help="how many functions to show")
    given = parser.parse_args()
    topology = topology_of(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        provision(topology, folder)
        rounds = [Round(given.floats, given.iterations, 0)]
        processes.run("bench.profile", build(topology), folder / "kits", rounds, folder)
        (file,) = folder.glob(f"scratch-*/{_STATISTICS}")
        statistics = pstats.Stats(str(file)).strip_dirs()
    statistics.sort_stats("tottime").print_stats(given.lines)


if __name__ == "__main__":
    main()
