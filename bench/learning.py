"""What the training algorithms need to learn unbalanced digits: iterations, bytes, seconds on a slow network.

Simulated, each algorithm with the step size of a few that takes the fewest iterations until every site is
accurate enough. The seconds are those that `flaremesh plan --measured` would say of such a network, with
those of the gradients here. Writes learning.md.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.processes import ROOT
from bench.topologies import topology_of
from flaremesh.provision.measured import MeasuredEdge, Measurement
from flaremesh.provision.payload import loads, step_seconds
from flaremesh.provision.prediction import Lines, times
from flaremesh.provision.sweep import Trial, combinations, sweep, with_fields
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import Topology

_TARGET = {"accuracy": 0.93}
_SITES = (4, 8)
_RATE, _ROUND_TRIP = 1e8 / 8, 0.05  # bytes a second of each site's line, seconds
_LOCAL_STEPS = 20
_STEPS = (0.05, 0.1, 0.2, 0.4)
_SMALL_STEPS = (0.005, 0.01, 0.02, 0.05)
_GRIDS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "dgd": {"run.stepsize": _STEPS},
    "dgd-cta": {"run.stepsize": _STEPS},
    "dgd-atc": {"run.stepsize": _STEPS},
    "sgp": {"run.stepsize": _STEPS},
    "quasi-global-momentum": {"run.stepsize": _SMALL_STEPS},
    "gradient-tracking": {"run.stepsize": _STEPS},
    "gradient-tracking-atc": {"run.stepsize": _STEPS},
    "push-diging": {"run.stepsize": _STEPS},
    "gtadam": {"run.stepsize": _SMALL_STEPS},
    "momentum-tracking": {"run.stepsize": _SMALL_STEPS},
    "extra": {"run.stepsize": _STEPS},
    "exact-diffusion": {"run.stepsize": _STEPS},
    "nids": {"run.stepsize": _STEPS},
    "push-pull": {"run.stepsize": _STEPS},
    "beer": {"run.stepsize": _STEPS, "run.wire": ("int8",)},
    "lead": {"run.stepsize": _STEPS, "run.wire": ("int8",)},
    "local-dgd": {"run.stepsize": _STEPS, "run.local_steps": (_LOCAL_STEPS,)},
    "k-gt": {"run.stepsize": _STEPS, "run.local_steps": (_LOCAL_STEPS,), "run.options": ({"outer": 1.0},)},
    "led": {"run.stepsize": _STEPS, "run.local_steps": (_LOCAL_STEPS,)},
    "noloco": {"run.stepsize": _STEPS, "run.local_steps": (_LOCAL_STEPS,)},
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.learning", description=__doc__)
    parser.add_argument("--iterations", type=int, default=800, help="of a run at most")
    parser.add_argument("--output", type=Path, default=ROOT / "build/bench", help="folder")
    given = parser.parse_args()
    torch.set_num_threads(1)  # sites take turns with small steps: threads would only wait for each other
    lines = [
        "| sites | algorithm | step size | local steps | iterations | MB a site | seconds |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for sites in _SITES:
        for algorithm, grid in _GRIDS.items():
            lines.append(_row(_topology(sites, algorithm, given.iterations), grid))
            Console().print(lines[-1], highlight=False)
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "learning.md").write_text("\n".join(lines) + "\n")


def _topology(sites: int, algorithm: str, iterations: int) -> Topology:
    run = {"algorithm": algorithm, "stepsize": _STEPS[0], "iterations": iterations, "evaluate_every": 1}
    run["until"] = _TARGET
    run["privacy"] = {
        "masked_start": False
    }  # the algorithms as published; docs/privacy.md says what masks cost
    run["problem"] = {"path": "flaremesh.problems.digits.Digits"}
    return with_fields(topology_of(sites), {"run": run})


def _row(topology: Topology, grid: Mapping[str, Sequence[Any]]) -> str:
    """The best trial of an algorithm."""
    fields = combinations(grid)
    trials = [*sweep([with_fields(topology, each) for each in fields], fields)]
    best = min(trials, key=lambda trial: (not trial.reached, trial.iterations))
    steps = best.fields.get("run.local_steps", 1)
    wire = f" on {best.fields['run.wire']}" if "run.wire" in best.fields else ""
    cells: list[Any] = [
        len(topology.sites),
        f"`{topology.run.algorithm}`{wire}",
        best.fields["run.stepsize"],
        steps,
    ]
    if best.reached:
        seconds = best.iterations * _seconds(topology, best, steps)
        cells += [best.iterations, f"{best.sent_bytes / 1e6:.3g}", f"{seconds:.3g}"]
    else:
        accuracy = max((trial.metrics or {}).get("accuracy", 0.0) for trial in trials)
        cells += [f"{best.iterations}: {100 * accuracy:.3g} % at best", "", ""]
    return f"| {' | '.join(map(str, cells))} |"


def _seconds(topology: Topology, trial: Trial, local_steps: int) -> float:
    """Of an iteration on the network, with the gradients of one site."""
    chosen = with_fields(topology, trial.fields)
    mesh = build(chosen)
    edges = [
        MeasuredEdge(source, target, _ROUND_TRIP, _RATE, _RATE / mesh.graph.out_degree(source))
        for source, target in mesh.graph.edges
    ]
    measurement = Measurement(chosen.name, time.strftime("%FT%TZ", time.gmtime()), edges, [], {})
    (exchange,) = times(chosen, mesh, Lines(measurement), loads(chosen, [chosen.run.wire]))
    return exchange.seconds + local_steps * step_seconds(chosen)


if __name__ == "__main__":
    main()
