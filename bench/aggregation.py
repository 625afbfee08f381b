"""Measures what secure aggregation costs where all sites are neighbours, in bytes and in time.

The sites of one run mix a vector without and with it in turns, so that whatever else the machine does hits
both. Writes aggregation.json.
"""

import argparse
import json
from pathlib import Path
from statistics import median

from rich.console import Console

from bench.jobs.flaremesh_executors import TURNS
from bench.mesh import running
from bench.processes import ROOT
from bench.samples import FLAREMESH
from bench.topologies import topology_of
from flaremesh.topology.schema import Topology

BYTES_PERCENT, SECONDS_PERCENT = 15.0, 30.0
_FLOATS = 1_000_000
_WARM_UP = 10  # rounds that do not count


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.aggregation", description=__doc__)
    parser.add_argument("--sites", type=int, action="append", help="only this size of mesh; may be repeated")
    parser.add_argument("--floats", type=int, default=_FLOATS, help="length of the vectors")
    parser.add_argument("--rounds", type=int, default=150, help="how often both take their turn")
    parser.add_argument("--output", type=Path, default=ROOT / "build/bench", help="folder")
    given = parser.parse_args()
    figures = []
    for sites in given.sites or (3, 4):
        with running(_complete(sites), given.output / f"mesh-aggregation-{sites}", "direct") as mesh:
            job = mesh.run(
                FLAREMESH,
                "Alternating",
                {"floats": given.floats, "rounds": given.rounds + _WARM_UP},
                on_loss="fail",
                privacy={"secure_aggregation": True},
            )
        turns = [json.loads((folder / TURNS).read_text()) for folder in job.folders]
        figures.append({"sites": sites, "floats": given.floats, "turns": turns})
        _show(sites, given.floats, turns)
    (given.output / "aggregation.json").write_text(json.dumps(figures) + "\n")


def _complete(sites: int) -> Topology:
    document = topology_of(sites).model_dump(by_alias=True, mode="json")
    return Topology.model_validate(document | {"graph": {"kind": "complete"}})


def _show(sites: int, floats: int, turns: list[list[list[float]]]) -> None:
    """Tell medians over the rounds of all sites.

    Args:
        sites: of the mesh.
        floats: of a vector.
        turns: by site, seconds and bytes of each turn: without and with it alternately.
    """
    plain = [turn for site in turns for turn in site[2 * _WARM_UP :: 2]]
    hidden = [turn for site in turns for turn in site[2 * _WARM_UP + 1 :: 2]]
    before, after = ([median(column) for column in zip(*each, strict=True)] for each in (plain, hidden))
    seconds, sent = (100 * (more / less - 1) for less, more in zip(before, after, strict=True))
    targets = f"{SECONDS_PERCENT:g} % and {BYTES_PERCENT:g} %"
    met = seconds <= SECONDS_PERCENT and sent <= BYTES_PERCENT
    Console(width=190).print(
        f"{sites} sites, {floats:g} floats: {1e3 * before[0]:.3g} ms an exchange, {1e3 * after[0]:.3g} ms "
        f"with secure aggregation: {seconds:.1f} % more time and {sent:.2g} % more bytes, medians "
        f"of {len(plain)} each ({'met' if met else 'MISSED'}: {targets})"
    )


if __name__ == "__main__":
    main()
