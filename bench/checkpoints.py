"""Measures what checkpoints cost a run of two sites with 1e7 floats.

The run is gradient tracking, whose checkpoint holds several vectors, with a gradient that keeps a core busy.
It takes a checkpoint every ten seconds or so. The iterations that begin with one are compared with as many
just before it, in which nothing is written: whatever else the machine does hits both. The cost is told for
one checkpoint a minute. Writes checkpoints.json.
"""

import argparse
import json
from pathlib import Path
from statistics import quantiles

from rich.console import Console

from bench.mesh import running
from bench.processes import ROOT
from bench.samples import FLAREMESH
from bench.topologies import topology_of
from flaremesh.metrics.sink import Iteration

TARGET_PERCENT = 2.0
_FLOATS = 10_000_000
_GRADIENT_SECONDS = 0.06
_EVERY, _CHECKPOINTS = 40, 6
_BESIDE = 8  # iterations: they take longer than the writing
_PERIOD_SECONDS = 60.0  # between two checkpoints, by default


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.checkpoints", description=__doc__)
    parser.add_argument("--floats", type=int, default=_FLOATS, help="length of the vectors")
    parser.add_argument("--every", type=int, default=_EVERY, help="iterations between checkpoints")
    parser.add_argument("--checkpoints", type=int, default=_CHECKPOINTS, help="how many are measured")
    parser.add_argument("--output", type=Path, default=ROOT / "build/bench", help="folder")
    given = parser.parse_args()
    folder, iterations = given.output / "mesh-checkpoints", given.every * (given.checkpoints + 1)
    args = {"dimension": given.floats, "gradient_seconds": _GRADIENT_SECONDS}
    with running(topology_of(2), folder, "direct") as mesh:
        job = mesh.run(
            FLAREMESH,
            "Run",
            {"floats": given.floats},
            algorithm="gradient-tracking",
            stepsize=1e-3,
            problem={"path": "bench.jobs.vector.Vector", "args": args},
            iterations=iterations,
            evaluate_every=iterations,
            on_loss="wait",
            checkpoint={"every": given.every},
        )
    costs = [cost for rows in job.histories() for cost in _costs(rows, given.every)]
    low, middle, high = (100 * seconds / _PERIOD_SECONDS for seconds in quantiles(costs, n=4))
    figures = {"floats": given.floats, "seconds": costs, "percent": middle}
    (given.output / "checkpoints.json").write_text(json.dumps(figures, indent=1) + "\n")
    seconds = sum(row.seconds for row in job.histories()[0]) / (given.checkpoints + 1)
    Console().print(
        f"{given.floats:g} floats, a checkpoint every {seconds:.1f} s: "
        f"one a minute would cost {middle:.2g} % (quartiles {low:.2g} and {high:.2g}; "
        f"{'met' if middle <= TARGET_PERCENT else 'MISSED'}: <= {TARGET_PERCENT:g} %)"
    )


def _costs(rows: list[Iteration], every: int) -> list[float]:
    """How many seconds each checkpoint of a site adds to the iterations that begin with it."""
    seconds = [row.seconds for row in rows]
    return [
        sum(seconds[taken : taken + _BESIDE]) - sum(seconds[taken - _BESIDE : taken])
        # a checkpoint is taken at the end of its iteration; the run's end is one, too
        for taken in range(every - 1, len(rows) - every, every)
    ]


if __name__ == "__main__":
    main()
