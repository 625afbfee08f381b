"""Secure aggregation over real links: each site learns the sum of its neighbours' vectors."""

from pathlib import Path

import pytest
from running_mesh import running_mesh

from flaremesh.runtime.simulate import simulation_of
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import Run

AGGREGATED = {
    "algorithm": "gradient-tracking",
    "stepsize": 0.1,
    "iterations": 40,
    # masks at the start are others in each run, and so are the last bits of what comes out
    "privacy": {"secure_aggregation": True, "masked_start": False},
    "problem": {"path": "flaremesh.problems.digits.Digits"},
}

pytestmark = pytest.mark.timeout(100)


def test_three_sites_that_see_sums_alone_come_to_what_the_simulator_says(tmp_path: Path) -> None:
    with running_mesh(tmp_path) as mesh:
        mesh.topology = mesh.topology.model_copy(update={"run": Run.model_validate(AGGREGATED)})
        result = mesh.run("aggregated")
    with simulation_of(mesh.topology.run, build(mesh.topology)) as simulation:
        simulation.run()
    metrics = {site: known.metrics for site, known in result.sites.items()}
    assert metrics == simulation.document()["metrics"]
