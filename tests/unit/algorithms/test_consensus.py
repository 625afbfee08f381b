"""Average consensus, beyond what the contract suite holds of all algorithms."""

import math
from functools import partial

import pytest
import torch
from reference_cases import (
    contraction,
    estimates,
    fitted_rate,
    one_peer_exponential,
    random_graph,
    ring,
    simulation,
    star_with_equal_rows,
    stationary_distribution,
)

from flaremesh.algorithms import create
from flaremesh.problems.consensus import Consensus

vectors = partial(Consensus, dimension=5)


@pytest.mark.parametrize("w", [ring(), random_graph()], ids=["ring", "random"])
def test_every_iteration_contracts_at_least_at_the_predicted_rate(w):
    run = simulation(w, create("consensus"), vectors, iterations=100)
    before = run.snapshots[0]
    for snapshot in run.steps():
        assert snapshot.consensus_distance <= contraction(w) * before.consensus_distance + 1e-14
        before = snapshot


def test_a_ring_of_eight_contracts_at_its_predicted_rate():
    run = simulation(ring(8), create("consensus"), vectors, iterations=120)
    run.run()
    rate = fitted_rate([snapshot.consensus_distance for snapshot in run.snapshots], 60, 120)
    assert rate == pytest.approx(1 / 3 + 2 / 3 * math.cos(2 * math.pi / 8), rel=1e-4)
    assert rate == pytest.approx(contraction(ring(8)), rel=1e-4)


def test_one_peer_exponential_is_exact_after_log2_n_iterations():
    run = simulation(one_peer_exponential(rounds=3), create("consensus"), vectors, iterations=3)
    run.run()
    assert run.snapshots[2].consensus_distance > 1e-3
    assert run.snapshots[3].consensus_distance < 1e-14


def test_rows_that_sum_to_one_are_not_enough_for_the_mean():
    w = star_with_equal_rows()
    run = simulation(w, create("consensus"), vectors, iterations=200)
    initial = estimates(run)
    run.run()
    weighted = torch.from_numpy(stationary_distribution(w)) @ initial
    assert torch.allclose(estimates(run), weighted.expand(8, -1), atol=1e-12)
    assert torch.linalg.vector_norm(weighted - initial.mean(dim=0)) > 1e-2
