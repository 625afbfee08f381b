"""Measures what secure aggregation costs where all sites are neighbours, in bytes and in time.

Runs of consensus with and without it take turns on the same mesh, so that whatever else the machine does hits
both. Writes aggregation.json.
"""

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from bench.mesh import RunningMesh, running
from bench.processes import ROOT
from bench.samples import FLAREMESH
from bench.topologies import topology_of
from flaremesh.topology.schema import Topology

BYTES_PERCENT, SECONDS_PERCENT = 15.0, 30.0
_FLOATS = 1_000_000
_WARM_UP = 10  # iterations that do not count


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.aggregation", description=__doc__)
    parser.add_argument("--sites", type=int, action="append", help="only this size of mesh; may be repeated")
    parser.add_argument("--floats", type=int, default=_FLOATS, help="length of the vectors")
    parser.add_argument("--iterations", type=int, default=60, help="of a run")
    parser.add_argument("--repeats", type=int, default=5, help="how often either takes its turn")
    parser.add_argument("--output", type=Path, default=ROOT / "build/bench", help="folder")
    given = parser.parse_args()
    figures = []
    for sites in given.sites or (3, 4):
        folder = given.output / f"mesh-aggregation-{sites}"
        with running(_complete(sites), folder, "direct") as mesh:
            turns = [
                [_run(mesh, given.floats, given.iterations, hidden) for hidden in (False, True)]
                for _ in range(given.repeats)
            ]
        figures.append({"sites": sites, "floats": given.floats, "turns": turns})
        _show(sites, given.floats, turns)
    (given.output / "aggregation.json").write_text(json.dumps(figures, indent=1) + "\n")


def _complete(sites: int) -> Topology:
    document = topology_of(sites).model_dump(by_alias=True, mode="json")
    return Topology.model_validate(document | {"graph": {"kind": "complete"}})


def _run(mesh: RunningMesh, floats: int, iterations: int, hidden: bool) -> dict[str, Any]:
    """Median seconds of an iteration, and bytes that a site sent in it."""
    job = mesh.run(
        FLAREMESH,
        "Run",
        {"floats": floats},
        problem={"path": "bench.jobs.vector.Vector", "args": {"dimension": floats}},
        iterations=iterations,
        evaluate_every=iterations,
        on_loss="fail",
        privacy={"secure_aggregation": hidden},
    )
    seconds = [row.seconds for rows in job.histories() for row in rows[_WARM_UP:]]
    assert job.result, "a finished run has a result"
    sent = median(sum(site.sent_bytes.values()) for site in job.result.sites.values()) / iterations
    return {"hidden": hidden, "seconds": median(seconds), "bytes": sent}


def _show(sites: int, floats: int, turns: list[list[dict[str, Any]]]) -> None:
    more = {
        name: median(100 * (hidden[name] / plain[name] - 1) for plain, hidden in turns)
        for name in ("bytes", "seconds")
    }
    plain, hidden = (median(turn[which]["seconds"] for turn in turns) for which in (0, 1))
    met = more["bytes"] <= BYTES_PERCENT and more["seconds"] <= SECONDS_PERCENT
    Console().print(
        f"{sites} sites, {floats:g} floats: {1e3 * plain:.3g} ms an iteration, {1e3 * hidden:.3g} ms with "
        f"secure aggregation; {more['seconds']:.1f} % more time (median of {len(turns)} pairs) and "
        f"{more['bytes']:.3g} % more bytes ({'met' if met else 'MISSED'}: <= {SECONDS_PERCENT:g} % and "
        f"<= {BYTES_PERCENT:g} %)"
    )


if __name__ == "__main__":
    main()
