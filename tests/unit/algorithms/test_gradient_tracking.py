import pytest
import torch
from reference_cases import (
    LeastSquares,
    estimates,
    fitted_rate,
    minimiser,
    random_graph,
    ring,
    simulation,
    stacked,
    strong_convexity,
)

from flaremesh.algorithms import create

WS = pytest.mark.parametrize("w", [ring(), random_graph()], ids=["ring", "random"])


@WS
@pytest.mark.parametrize(("name", "tracker"), [("gradient-tracking", "y"), ("gtadam", "s")])
def test_the_mean_tracker_is_the_mean_gradient_at_every_iteration(name, tracker, w):
    run = simulation(w, create(name, stepsize=0.002), LeastSquares, iterations=200)
    for _ in run.steps():
        g = torch.stack([site.problem.loss_and_gradient(site.estimate)[1] for site in run.sites.values()])
        torch.testing.assert_close(stacked(run, tracker).mean(dim=0), g.mean(dim=0), rtol=0, atol=1e-12)


@WS
def test_all_sites_reach_the_minimiser_at_the_predicted_rate(w):
    alpha, n = 0.002, len(w)
    run = simulation(w, create("gradient-tracking", stepsize=alpha), LeastSquares, iterations=2400)
    solution = minimiser([1] * n)
    errors = [float(torch.linalg.matrix_norm(estimates(run) - solution)) for _ in run.steps()]
    assert errors[-1] < 1e-12
    rate = fitted_rate(errors, 600, 1200)
    assert 1 - rate == pytest.approx(alpha * strong_convexity(n), rel=0.01)
