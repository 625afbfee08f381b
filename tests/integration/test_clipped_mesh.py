"""Clipped mixing over real links: as in the simulator, and told by the sites' metrics."""

from pathlib import Path

import pytest
from running_mesh import running_mesh

from flaremesh.runtime.simulate import simulation_of
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import Run

FAR = {"heidelberg": [0.0, 1.0], "bonn": [1e3, 1e3], "aachen": [1.0, 0.0]}
CLIPPED = {
    "algorithm": "dgd-atc",
    "stepsize": 0.1,
    "iterations": 50,
    "wire": "int8",
    "mixing": {"clip": "auto"},
    "problem": {"path": "flaremesh.problems.consensus.Consensus", "args": {"values": FAR}},
}

pytestmark = pytest.mark.timeout(100)


def test_a_site_that_is_far_from_all_is_clipped_by_all_and_the_result_is_that_of_the_simulator(
    tmp_path: Path,
) -> None:
    with running_mesh(tmp_path) as mesh:
        mesh.topology = mesh.topology.model_copy(update={"run": Run.model_validate(CLIPPED)})
        result = mesh.run("clipped")
        counted = {
            site: mesh.metric(site, "clipped_exchanges_total", peer="bonn") or 0.0
            for site in ("heidelberg", "aachen")
        }
    with simulation_of(mesh.topology.run, build(mesh.topology)) as simulation:
        simulation.run()
    metrics = {site: known.metrics for site, known in result.sites.items()}
    assert metrics == simulation.document()["metrics"]
    assert counted == {site: pytest.approx(simulation.sites[site].clips["bonn"]) for site in counted}
    assert min(counted.values()) > 25
    assert result.predicted_contraction is None
