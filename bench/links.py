"""Measures flaremesh's links beside what a user would take instead, all in turns on the same machine.

flaremesh and nvflare.app_opt.p2p run as jobs on real NVFlare meshes, torch.distributed's gloo and bare TLS
sockets as plain processes; torch gets as many threads in each. Writes links.json, links.md and links.png.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from bench import report
from bench.comparison import Comparison
from bench.growth import Growth
from bench.mesh import running
from bench.plan import FULL, QUICK, Plan
from bench.processes import ROOT
from bench.samples import Samples
from bench.topologies import topology_of

CASES = ("scalar", "vectors", "training", "overlap", "trivial", "growth")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.links", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two sites, few iterations, one repeat")
    parser.add_argument("--sites", type=int, action="append", help="only this size of mesh; may be repeated")
    parser.add_argument("--case", choices=CASES, action="append", help="only this case; may be repeated")
    parser.add_argument("--repeats", type=int, help="how often everything takes its turn")
    parser.add_argument(
        "--links", choices=("direct", "auto", "relay"), default="direct", help="of flaremesh's jobs"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "build/bench", help="folder")
    given = parser.parse_args(arguments)
    plan = QUICK if given.quick else FULL
    plan = replace(plan, sites=given.sites or plan.sites, repeats=given.repeats or plan.repeats)
    cases = given.case or CASES
    samples = Samples()
    for sites in plan.sites:
        chosen = _cases_of(sites, plan, cases)
        if chosen:
            with running(topology_of(sites), given.output / f"mesh-{sites}", given.links) as mesh:
                comparison = Comparison(mesh, plan, samples)
                for repeat in range(plan.repeats):
                    for case in chosen:
                        getattr(comparison, case)(repeat)
    if "growth" in cases:
        growth = Growth(plan.growth, plan.growth_rounds, samples, given.output / "growth")
        for repeat in range(plan.repeats):
            growth.repeat(repeat)
    rows = list(samples.rows())
    (given.output / "links.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    (given.output / "links.md").write_text(report.markdown_of(rows))
    report.plot(rows, given.output / "links.png")
    console = Console(width=190)
    console.print(f"links: {given.links}; median (p95), less is better")
    console.print(*report.tables_of(rows))


def _cases_of(sites: int, plan: Plan, cases: Sequence[str]) -> list[str]:
    """What is done on a mesh: training on the largest, what is not about the graph on the smallest."""
    only = {"training": max(plan.sites), "overlap": min(plan.sites), "trivial": min(plan.sites)}
    return [case for case in cases if case != "growth" and only.get(case, sites) == sites]


if __name__ == "__main__":
    main()
