"""Local steps take the place of exchanges, over real links."""

from pathlib import Path

import pytest
from running_mesh import running_mesh

from flaremesh.p2p.outcome import RUN_FOLDER
from flaremesh.runtime.history import HISTORY, History
from flaremesh.topology.schema import Run

DIGITS = Path(__file__).parents[2] / "provision" / "digits-ring4.yaml"
ACCURATE = 0.93
RUNS = {
    "gradient-tracking": {"stepsize": 0.05, "iterations": 400},
    "k-gt": {"stepsize": 0.05, "local_steps": 20, "iterations": 80, "options": {"outer": 1.0}},
}

pytestmark = pytest.mark.timeout(200)


def first_accurate(history: History) -> int:
    """The iteration after which a site is accurate for the first time."""
    return min(each.iteration for each in history.evaluations if each.metrics["accuracy"] >= ACCURATE)


def test_k_gt_is_as_accurate_as_gradient_tracking_with_a_fifth_of_the_bytes(tmp_path: Path) -> None:
    """Both send two vectors in an iteration: of iterations and of bytes there are as many times fewer."""
    iterations = {}
    with running_mesh(tmp_path, DIGITS) as mesh:
        for algorithm, run in RUNS.items():
            fields = {"algorithm": algorithm, "evaluate_every": 1} | run
            fields |= {"problem": mesh.topology.run.problem}
            mesh.topology = mesh.topology.model_copy(update={"run": Run.model_validate(fields)})
            result = mesh.run(algorithm)
            sites = [site.name for site in mesh.topology.sites]
            histories = [
                History.read(mesh.workspace(site) / result.run_id / RUN_FOLDER / HISTORY) for site in sites
            ]
            iterations[algorithm] = max(map(first_accurate, histories))
    assert 5 * iterations["k-gt"] <= iterations["gradient-tracking"], iterations
