"""Push-sum, beyond what the contract suite holds of all algorithms."""

from functools import partial

import torch
from reference_cases import (
    directed_ring_with_chords,
    estimates,
    simulation,
    stacked,
)

from flaremesh.algorithms import create
from flaremesh.problems.consensus import Consensus

P = directed_ring_with_chords()
vectors = partial(Consensus, dimension=5)


def test_the_shares_alone_do_not_tend_to_the_mean_without_their_weights():
    run = simulation(P, create("push-sum"), vectors, iterations=300)
    mean = estimates(run).mean(dim=0)
    run.run()
    assert torch.allclose(estimates(run), mean.expand(8, -1), atol=1e-12)
    assert torch.linalg.matrix_norm(stacked(run, "x") - mean) > 0.1
