"""A run in which no site waits for another one, over real links."""

from command_mesh import Mesh

from flaremesh.p2p.outcome import RUN_FOLDER
from flaremesh.runtime.history import HISTORY, History

GRADIENT_SECONDS = 0.02
ITERATIONS = 150
PACED = {"seconds": {"bonn": 10 * GRADIENT_SECONDS}, "otherwise": GRADIENT_SECONDS}


def test_sites_go_on_while_a_slow_one_computes_and_all_learn_from_its_data(mesh: Mesh) -> None:
    """bonn alone has seen its digits; the first site that is done ends the run for all."""
    options = {"asynchronous": True, "on_loss": "fail", "stepsize": 0.1, "iterations": ITERATIONS}
    problem = {"path": "faulty.Paced", "args": PACED}
    result = mesh.run(file=mesh.topology("gradient-tracking", problem, **options))
    done = {site: outcome["iterations"] for site, outcome in result["sites"].items()}
    slow = done.pop("bonn")
    assert max(done.values()) == ITERATIONS
    assert min(done.values()) > 4 * slow
    for site, outcome in result["sites"].items():
        assert outcome["metrics"]["accuracy"] > 0.9, site
        history = History.read(mesh.folder / "local" / site / result["run_id"] / RUN_FOLDER / HISTORY)
        assert history.evaluations[-1].iteration == history.last_iteration, site
