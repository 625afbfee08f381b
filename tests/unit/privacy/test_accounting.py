"""What ε a run has, by the accountants of two other projects, and which noise it needs."""

import math

import dp_accounting
import networkx as nx
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import RDPAccountant

from flaremesh import algorithms
from flaremesh.privacy.accounting import (
    ORDERS,
    PrivacyError,
    Queries,
    budget_of,
    epsilon,
    laplacian_of,
    most_rdp,
    pairs_of,
    rdp_factor,
    weakest_factor,
)
from flaremesh.privacy.queries import queries_of
from flaremesh.topology.schema import Privacy

DELTA = 1e-5
STEPWISE = Queries(first=0, each=1, step=0.1)


def pairs(graph):
    return nx.to_numpy_array(graph)


RING = pairs(nx.cycle_graph(8))


def budget(iterations=100, queries=STEPWISE, graph=None, **said):
    privacy = Privacy.model_validate({"epsilon": 8, "delta": DELTA, "clip": 1.0} | said)
    return budget_of(privacy, queries, iterations, graph)


@pytest.mark.parametrize(("sigma", "queries"), [(0.7, 1), (4.0, 50), (20.0, 1000), (500.0, 3)])
def test_epsilon_is_that_of_opacus_and_of_googles_accountant(sigma, queries):
    ours = epsilon(rdp_factor(sigma) * queries, DELTA)
    multiplier = sigma / 2  # two data sets differ by twice the clipping norm
    opacus = RDPAccountant()
    opacus.history = [(multiplier, 1.0, queries)]
    assert ours == pytest.approx(opacus.get_epsilon(DELTA, alphas=ORDERS), rel=1e-9)
    google = RdpAccountant(ORDERS, dp_accounting.NeighboringRelation.REPLACE_ONE)
    google.compose(dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(multiplier), queries))
    assert ours == pytest.approx(google.get_epsilon(DELTA), rel=1e-6)


@pytest.mark.parametrize("sigma", [1.0, 4.0, 30.0])
def test_epsilon_is_no_less_than_what_the_gaussian_mechanism_has(sigma):
    """Balle and Wang 2018, theorem 8, says exactly which δ an ε has."""
    ours, shift = epsilon(rdp_factor(sigma), DELTA), 2 / sigma

    def upper(z):
        return math.erfc(-z / math.sqrt(2)) / 2

    exact = upper(shift / 2 - ours / shift) - math.exp(ours) * upper(-shift / 2 - ours / shift)
    assert 0 < exact <= DELTA


@pytest.mark.parametrize("most", [0.1, 1.0, 8.0, 300.0])
def test_what_fits_an_epsilon_has_it_and_no_more(most):
    rdp = most_rdp(most, DELTA)
    assert epsilon(rdp, DELTA) == pytest.approx(most, rel=1e-12)
    assert epsilon(rdp * (1 + 1e-9), DELTA) > most


def test_an_epsilon_that_no_noise_proves_is_refused():
    with pytest.raises(PrivacyError, match=r"epsilon 1e-06 is too small for delta 1e-05: no noise proves it"):
        most_rdp(1e-6, DELTA)


@pytest.mark.parametrize("sites", [2, 3, 8, 64])
def test_the_factor_of_correlated_noise_is_the_closed_form_on_complete_graphs(sites):
    own, shared = 0.1, 1.0
    closed = 2 * (1 / (sites * own**2) + (1 - 1 / sites) / (own**2 + sites * shared**2))
    found = rdp_factor(own, 1.0, shared, laplacian_of(pairs(nx.complete_graph(sites))))
    assert found == pytest.approx(closed, rel=1e-12)


def test_noise_that_neighbours_share_makes_the_factor_of_a_ring_an_eighth():
    assert rdp_factor(0.1, 1.0, 1.0, laplacian_of(RING)) == pytest.approx(26.3, abs=0.05)
    assert rdp_factor(0.1) == pytest.approx(200)
    assert rdp_factor(0.1, clip=3.0) == pytest.approx(9 * 200)


def test_who_takes_part_knows_the_noise_of_its_pairs_and_makes_the_factor_greater():
    stranger, one, two = (weakest_factor(0.1, 1.0, RING, curious) for curious in range(3))
    path = rdp_factor(0.1, 1.0, 1.0, laplacian_of(pairs(nx.path_graph(7))))
    assert stranger == pytest.approx(26.3, abs=0.05)
    assert one == pytest.approx(path)
    assert one > stranger
    assert two == pytest.approx(200)  # the two neighbours of a site know all its noise but its own


def test_too_many_coalitions_are_refused():
    with pytest.raises(PrivacyError, match=r"write a smaller privacy\.curious, or noise: independent"):
        weakest_factor(0.1, 1.0, pairs(nx.cycle_graph(64)), 8)


def test_pairs_are_neighbours_in_either_direction():
    expected = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    assert np.array_equal(pairs_of([("a", "b"), ("c", "b"), ("a", "a")], ["a", "b", "c"]), expected)


@pytest.mark.parametrize("noise", ["independent", "correlated"])
@pytest.mark.parametrize("queries", [STEPWISE, Queries(3, 3)])
def test_without_a_sigma_the_noise_is_the_least_with_which_all_iterations_fit(noise, queries):
    found = budget(iterations=70, queries=queries, graph=RING, noise=noise)
    assert found.iterations == 70
    assert found.spent(found.most) == pytest.approx(8, rel=1e-9)
    assert found.spent(found.most) <= 8
    less = budget(iterations=70, queries=queries, graph=RING, noise=noise, sigma=found.sigma * 0.99)
    assert less.iterations < 70


def test_with_a_sigma_the_budget_says_how_many_iterations_fit():
    found = budget(iterations=1000, queries=Queries(1, 2), sigma=10.0)
    assert found.spent(found.most) <= 8 < found.spent(found.most + 2)
    assert found.most == 1 + 2 * found.iterations


def test_correlated_noise_leaves_less_in_the_mean_for_the_same_epsilon():
    independent, correlated = budget(), budget(noise="correlated", graph=RING)
    assert correlated.sigma < independent.sigma / 2
    assert (independent.shared_noise, correlated.shared_noise) == (0, 10 * correlated.noise)


def test_the_noise_of_an_example_is_that_of_its_share():
    assert budget(examples=150).noise == pytest.approx(budget().noise / 150)


def test_a_budget_that_not_one_iteration_fits_is_refused():
    with pytest.raises(
        PrivacyError, match=r"with sigma 0\.1 one iteration spends ε .*; write a greater sigma"
    ):
        budget(sigma=0.1)


def test_a_run_that_asks_for_no_gradient_cannot_have_a_budget():
    with pytest.raises(PrivacyError, match="the algorithm asks for no gradient"):
        budget(queries=queries_of(algorithms.create("consensus")))


@pytest.mark.parametrize(
    ("name", "said", "expected"),
    [
        ("dgd", {}, (0, 1, 0.1)),
        ("dgd-atc", {}, (1, 1, 0.1)),
        ("gradient-tracking", {}, (1, 1, 0.1)),
        ("local-dgd", {"local_steps": 4}, (4, 4, 0.1)),
        ("k-gt", {"local_steps": 4, "outer": 0.5}, (4, 4, 0.05)),
        ("momentum-tracking", {"beta": 0.5}, (1, 1, 0.2)),
    ],
)
def test_how_often_an_algorithm_asks_and_how_far_it_goes_is_found_by_running_it(name, said, expected):
    found = queries_of(algorithms.create(name, stepsize=0.1, **said))
    assert (found.first, found.each) == expected[:2]
    assert found.step == pytest.approx(expected[2], rel=1e-6)


def test_a_step_that_is_not_proportional_to_the_gradient_predicts_no_error():
    assert queries_of(algorithms.create("gtadam", stepsize=0.1)).step is None
