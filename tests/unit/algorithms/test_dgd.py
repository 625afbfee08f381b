import pytest
import torch
from reference_cases import (
    LeastSquares,
    estimates,
    minimiser,
    ring,
    simulation,
    star_with_equal_rows,
    stationary_distribution,
)

from flaremesh.algorithms import create

VARIANTS = ["dgd", "dgd-cta", "dgd-atc"]


def final_error(name, stepsize, iterations):
    run = simulation(ring(), create(name, stepsize=stepsize), LeastSquares, iterations)
    run.run()
    return float(torch.linalg.matrix_norm(estimates(run) - minimiser([1] * 8)))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_constant_stepsize_leaves_an_error_proportional_to_it(name):
    errors = [final_error(name, stepsize, round(1 / stepsize)) for stepsize in (4e-3, 2e-3, 1e-3)]
    assert errors[-1] > 1e-3
    first, second = errors[0] / errors[1], errors[1] / errors[2]
    assert 1.7 < first < second < 2


def test_the_variants_take_the_gradient_where_their_names_say():
    """One site and W = 1 cannot tell them apart; one iteration of the ring can."""
    w, alpha = torch.from_numpy(ring()), 0.01

    def gradients(x):
        problems = [site.problem for site in run.sites.values()]
        return torch.stack(
            [problem.loss_and_gradient(row)[1] for problem, row in zip(problems, x, strict=True)]
        )

    after = {}
    for name in VARIANTS:
        run = simulation(ring(), create(name, stepsize=alpha), LeastSquares, iterations=2)
        steps = run.steps()
        next(steps)
        x = estimates(run)
        next(steps)
        after[name] = (x, estimates(run))

    x, x_next = after["dgd"]
    torch.testing.assert_close(x_next, w @ x - alpha * gradients(x))
    x, x_next = after["dgd-cta"]
    torch.testing.assert_close(x_next, w @ x - alpha * gradients(w @ x))
    x, x_next = after["dgd-atc"]
    torch.testing.assert_close(x_next, w @ (x - alpha * gradients(x)))


def test_the_mean_moves_by_the_mean_gradient():
    alpha = 0.005
    run = simulation(ring(), create("dgd", stepsize=alpha), LeastSquares, iterations=50)
    x = estimates(run)
    for _ in run.steps():
        problems = [site.problem for site in run.sites.values()]
        g = torch.stack([problem.loss_and_gradient(row)[1] for problem, row in zip(problems, x, strict=True)])
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
