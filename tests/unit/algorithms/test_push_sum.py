from functools import partial

import numpy as np
import pytest
import torch
from reference_cases import (
    LeastSquares,
    directed_ring_with_chords,
    estimates,
    fitted_rate,
    minimiser,
    simulation,
    stacked,
)

from flaremesh.algorithms import create
from flaremesh.problems.consensus import Consensus

P = directed_ring_with_chords()
vectors = partial(Consensus, dimension=5)


def test_values_and_weights_keep_their_sums_at_every_iteration():
    run = simulation(P, create("push-sum"), vectors, iterations=100)
    total = stacked(run, "x").sum(dim=0)
    for _ in run.steps():
        torch.testing.assert_close(stacked(run, "x").sum(dim=0), total, rtol=0, atol=1e-12)
        assert float(stacked(run, "w").sum()) == pytest.approx(8, abs=1e-12)


def test_the_ratio_converges_to_the_mean_at_the_second_eigenvalue():
    run = simulation(P, create("push-sum"), vectors, iterations=150)
    mean = estimates(run).mean(dim=0)
    errors = [float(torch.linalg.matrix_norm(estimates(run) - mean)) for _ in run.steps()]
    assert errors[-1] < 1e-6
    second = np.sort(np.abs(np.linalg.eigvals(P)))[-2]
    assert fitted_rate(errors, 20, 120) == pytest.approx(second, rel=0.01)


def test_the_values_without_the_ratio_stay_wrong():
    run = simulation(P, create("push-sum"), vectors, iterations=300)
    mean = estimates(run).mean(dim=0)
    run.run()
    assert torch.allclose(estimates(run), mean.expand(8, -1), atol=1e-12)
    assert torch.linalg.matrix_norm(stacked(run, "x") - mean) > 0.1


def test_stochastic_gradient_push_keeps_the_weights_and_errs_in_proportion_to_its_stepsize():
    errors = []
    for stepsize in (4e-3, 2e-3, 1e-3):
        run = simulation(P, create("sgp", stepsize=stepsize), LeastSquares, iterations=round(1 / stepsize))
        for _ in run.steps():
            assert float(stacked(run, "w").sum()) == pytest.approx(8, abs=1e-11)
        errors.append(float(torch.linalg.matrix_norm(estimates(run) - minimiser([1] * 8))))
    assert errors[-1] > 1e-3
    assert 1.7 < errors[0] / errors[1] < errors[1] / errors[2] < 2
