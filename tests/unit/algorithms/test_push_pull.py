"""Push-pull needs both of its matrices, and stands wires that compress."""

from itertools import islice

import pytest
import torch
from equations import EQUATIONS, averaging
from reference_cases import (
    LeastSquares,
    directed_ring_with_chords,
    estimates,
    gradients_of,
    minimiser,
    simulation,
)

from flaremesh.algorithms import create
from flaremesh.problems.protocol import SiteContext

C = torch.from_numpy(directed_ring_with_chords())
PROBLEMS = [LeastSquares(SiteContext(f"site{i}", index=i, sites=8, seed=0)) for i in range(8)]


def error(x):
    return float((x - minimiser([1] * 8)).norm())


def error_by(name, w):
    """After 1000 iterations of the published equation, with which the contract compares the code."""
    zero = torch.zeros(8, 5, dtype=torch.float64)
    found = EQUATIONS[name].estimates(w, lambda x: gradients_of(PROBLEMS, x), zero, stepsize=0.005)
    return error(next(islice(found, 1000, None)))


def test_where_one_matrix_mixes_both_the_sites_come_elsewhere_or_never_agree():
    assert error_by("push-pull", C) < 1e-8
    assert error_by("gradient-tracking", averaging(C)) > 0.1
    assert error_by("gradient-tracking", C) > 0.1


@pytest.mark.parametrize("wire", ["int8", {"encoding": "top-k", "fraction": 0.4}], ids=str)
def test_on_wires_that_compress_they_come_to_the_minimiser(wire):
    algorithm = create("push-pull", stepsize=0.01)
    run = simulation(directed_ring_with_chords(), algorithm, LeastSquares, 150, wire)
    start = error(estimates(run))
    run.run()
    assert error(estimates(run)) < 0.01 * start
