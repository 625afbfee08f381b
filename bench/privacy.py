"""What ε costs in accuracy on digits: noise of each site's own, and noise that neighbours share.

Simulated on a ring of eight, whose sites have the same classes; the unit is an example. Each row has the step
size, and the correlation, with which the worst site is most accurate. Writes privacy.md.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from bench.processes import ROOT
from bench.topologies import topology_of
from flaremesh.provision.plan import plan
from flaremesh.provision.sweep import with_fields
from flaremesh.runtime.simulate import simulation_of
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import Topology

_SITES = 8
_EPSILONS = (1.0, 2.0, 4.0, 8.0, 16.0)
_STEPS = (0.25, 0.5, 1.0)
_CORRELATIONS = (0.5, 1.0, 2.0, 5.0)
_BUDGET = {"delta": 1e-5, "clip": 1.0, "examples": 170}
_RUN = {
    "algorithm": "dgd-atc",
    "stepsize": 0.5,
    "on_loss": "fail",
    "problem": {"path": "flaremesh.problems.digits.Digits", "args": {"partition": {"kind": "iid"}}},
}


class Trial(NamedTuple):
    """A run that was tried.

    Attributes:
        worst: accuracy of the least accurate site.
        mean: that of the mean of all sites' models.
    """

    worst: float
    mean: float
    stepsize: float
    topology: Topology


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.privacy", description=__doc__)
    parser.add_argument("--iterations", type=int, default=60, help="of a run")
    parser.add_argument("--output", type=Path, default=ROOT / "build/bench", help="folder")
    given = parser.parse_args()
    torch.set_num_threads(1)  # sites take turns with small steps: threads would only wait for each other
    lines = [
        "| ε | noise | σ / clip | correlation | step size | accuracy, worst site | accuracy, mean model |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    none = [_tried(given.iterations, step, {}) for step in _STEPS]
    lines.append(_row("∞", "none", none))
    Console().print(lines[-1], highlight=False)
    for epsilon in reversed(_EPSILONS):
        budget = _BUDGET | {"epsilon": epsilon}
        own = [_tried(given.iterations, step, budget) for step in _STEPS]
        lines.append(_row(f"{epsilon:g}", "independent", own))
        shared = [
            _tried(given.iterations, step, budget | {"noise": "correlated", "correlation": correlation})
            for step in _STEPS
            for correlation in _CORRELATIONS
        ]
        lines.append(_row(f"{epsilon:g}", "correlated", shared))
        Console().print("\n".join(lines[-2:]), highlight=False)
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "privacy.md").write_text("\n".join(lines) + "\n")


def _tried(iterations: int, stepsize: float, privacy: Mapping[str, Any]) -> Trial:
    run = _RUN | {"iterations": iterations, "stepsize": stepsize, "privacy": privacy}
    topology = with_fields(topology_of(_SITES), {"run": run})
    with simulation_of(topology.run, build(topology)) as simulation:
        simulation.run()
    worst, _ = simulation.metric_ranges()["accuracy"]
    one = next(iter(simulation.sites.values()))
    return Trial(worst, one.problem.evaluate(simulation.mean)["accuracy"], stepsize, topology)


def _row(epsilon: str, noise: str, trials: list[Trial]) -> str:
    best = max(trials, key=lambda trial: trial.worst)
    planned = plan(best.topology).privacy
    sigma = "" if planned is None else f"{planned.sigma:.3g}"
    privacy = best.topology.run.privacy
    correlation = f"{privacy.correlation:g}" if noise == "correlated" else ""
    cells = [
        *(epsilon, noise, sigma, correlation, f"{best.stepsize:g}"),
        *(f"{100 * accuracy:.1f} %" for accuracy in (best.worst, best.mean)),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
