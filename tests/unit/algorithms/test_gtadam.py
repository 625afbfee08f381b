"""GTAdam, beyond what the contract suite holds of all algorithms."""

from itertools import islice

import torch
from equations import GtAdam
from reference_cases import LeastSquares, estimates, gradients_of, minimiser, ring, simulation

from flaremesh.algorithms import create


def errors(iterations, **parameters):
    run = simulation(ring(), create("gtadam", **parameters), LeastSquares, iterations)
    solution = minimiser([1] * 8)
    return [float(torch.linalg.matrix_norm(estimates(run) - solution)) for _ in run.steps()]


def test_adams_usual_epsilon_drives_the_iterates_away_again():
    found = errors(1500, stepsize=0.01, beta2=0.99, epsilon=1e-8)
    assert min(found) < 1e-7
    assert max(found[-300:]) > 1e4 * min(found)


def test_the_second_moment_is_capped_as_in_the_papers_equation():
    options = {"stepsize": 0.1, "beta1": 0.8, "beta2": 0.9, "epsilon": 0.05}
    run = simulation(ring(), create("gtadam", **options, G=40.0), LeastSquares, iterations=5)
    problems, x = [site.problem for site in run.sites.values()], estimates(run)

    def equation(**cap):
        return GtAdam.estimates(
            torch.from_numpy(ring()), lambda x: gradients_of(problems, x), x, **options, **cap
        )

    for _, capped in zip(run.steps(), equation(G=40.0), strict=False):
        torch.testing.assert_close(estimates(run), capped)
    *_, free = islice(equation(), 5)
    assert not torch.allclose(capped, free)
