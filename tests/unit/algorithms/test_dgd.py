"""Distributed gradient descent, beyond what the contract suite holds of all algorithms."""

import torch
from reference_cases import (
    LeastSquares,
    estimates,
    gradients_of,
    minimiser,
    ring,
    simulation,
    star_with_equal_rows,
    stationary_distribution,
)

from flaremesh.algorithms import create


def test_the_mean_moves_by_the_mean_gradient():
    alpha = 0.005
    run = simulation(ring(), create("dgd", stepsize=alpha), LeastSquares, iterations=50)
    x = estimates(run)
    for _ in run.steps():
        g = gradients_of([site.problem for site in run.sites.values()], x)
        torch.testing.assert_close(run.mean, x.mean(dim=0) - alpha * g.mean(dim=0), rtol=0, atol=1e-12)
        x = estimates(run)


def test_weights_that_are_not_doubly_stochastic_lead_to_the_minimiser_of_another_sum():
    w = star_with_equal_rows()
    run = simulation(w, create("dgd", stepsize=1e-3), LeastSquares, iterations=2000)
    run.run()
    solution = run.mean
    to_weighted = torch.linalg.vector_norm(solution - minimiser(stationary_distribution(w)))
    to_wanted = torch.linalg.vector_norm(solution - minimiser([1] * 8))
    assert to_weighted < 0.1 * to_wanted
