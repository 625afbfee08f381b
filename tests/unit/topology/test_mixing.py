"""Mixing matrices and their rates, against theory."""

import sys
from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaremesh.topology.analysis import analyse, iterations_to, period, stationary
from flaremesh.topology.weights import (
    RULES,
    Adjacency,
    Matrix,
    MissingExtra,
    lazy,
    max_degree,
    metropolis,
    optimal,
    push_sum,
    uniform,
)


def adjacency(graph: "nx.Graph[int]") -> Adjacency:
    return np.asarray(nx.to_numpy_array(graph).T > 0)


@st.composite
def connected(draw: st.DrawFn, directed: bool = False) -> Adjacency:
    """A path through all sites (a ring, where directed) and any further edges."""
    n = draw(st.integers(2, 12))
    a = np.zeros((n, n), dtype=bool)
    for i in range(n if directed else n - 1):
        a[(i + 1) % n, i] = True
    for i, j in draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=3 * n)):
        a[i, j] = i != j or a[i, j]
    return a if directed else a | a.T


@given(connected(), st.sampled_from([metropolis, lazy, max_degree]))
def test_undirected_rules_are_symmetric_and_doubly_stochastic_on_any_graph(
    a: Adjacency, rule: Callable[[Adjacency], Matrix]
) -> None:
    w = rule(a)
    properties = analyse([w])

    assert properties.symmetric
    assert properties.doubly_stochastic
    assert properties.primitive
    assert properties.contraction < 1
    assert ((w > 0) == (a | np.eye(len(a), dtype=bool))).all() or rule is max_degree


@given(connected(directed=True))
def test_uniform_weights_are_row_stochastic_on_any_graph(a: Adjacency) -> None:
    assert analyse([uniform(a)]).row_stochastic


@given(connected(directed=True))
def test_push_sum_weights_are_column_stochastic_and_primitive_on_any_graph(a: Adjacency) -> None:
    properties = analyse([push_sum(a)])

    assert properties.column_stochastic
    assert properties.primitive


def test_lazy_weights_have_positive_eigenvalues_only() -> None:
    assert np.linalg.eigvalsh(lazy(adjacency(nx.cycle_graph(8)))).min() > 0


@pytest.mark.parametrize(
    "graph", [nx.path_graph(6), nx.star_graph(5), nx.cycle_graph(7), nx.barbell_graph(4, 1)]
)
def test_optimal_weights_contract_at_least_as_fast_as_metropolis(graph: "nx.Graph[int]") -> None:
    a = adjacency(graph)

    found, reference = analyse([optimal(a)]), analyse([metropolis(a)])

    assert found.symmetric
    assert found.doubly_stochastic
    assert found.contraction <= reference.contraction + 1e-6


def test_optimal_weights_name_the_extra_that_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cvxpy", None)

    with pytest.raises(MissingExtra, match=r"flaremesh\[optimal-weights\]"):
        RULES["optimal"](adjacency(nx.cycle_graph(4)))


def test_a_ring_of_eight_with_metropolis_weights_contracts_by_its_known_rate() -> None:
    # 1/3 + 2/3 cos(2π/8)
    assert analyse([metropolis(adjacency(nx.cycle_graph(8)))]).contraction == pytest.approx(
        0.804738, abs=1e-6
    )


@given(connected())
def test_the_contraction_is_the_rate_at_which_repeated_mixing_forgets(a: Adjacency) -> None:
    w = metropolis(a)
    n = len(w)
    contraction = analyse([w]).contraction

    lost = np.linalg.norm(np.linalg.matrix_power(w - 1 / n, 200), 2)

    assert lost == pytest.approx(contraction**200, rel=1e-6, abs=1e-12)


@given(connected(directed=True))
def test_the_contraction_of_push_sum_is_the_rate_of_its_powers(a: Adjacency) -> None:
    p = push_sum(a)
    limit = np.outer(stationary(p), np.ones(len(p)))
    contraction = analyse([p]).contraction

    # deviations from the limit shrink like |λ₂|ᵏ up to a polynomial of k, which the root takes away
    lost = np.linalg.norm(np.linalg.matrix_power(p - limit, 512), 2)

    assert lost ** (1 / 512) == pytest.approx(contraction, abs=0.03) or lost < 1e-12


def test_one_peer_exponential_mixing_is_exact_after_three_iterations_with_eight_sites() -> None:
    matrices = [(np.eye(8) + np.roll(np.eye(8), hop, axis=0)) / 2 for hop in (1, 2, 4)]

    properties = analyse(matrices)

    np.testing.assert_allclose(period(matrices), np.full((8, 8), 1 / 8), atol=1e-15)
    assert properties.doubly_stochastic
    assert properties.contraction == 0
    assert iterations_to(1e-3, properties.contraction, period=3) == 3


def test_one_peer_exponential_mixing_is_not_exact_with_six_sites() -> None:
    matrices = [(np.eye(6) + np.roll(np.eye(6), hop, axis=0)) / 2 for hop in (1, 2, 4)]

    rate = analyse(matrices).contraction

    assert rate**3 == pytest.approx(np.linalg.norm(period(matrices) - 1 / 6, 2))
    assert rate > 0.5


def test_the_contraction_of_a_schedule_is_the_geometric_mean_over_its_period() -> None:
    w = metropolis(adjacency(nx.cycle_graph(8)))

    assert analyse([w, w, w]).contraction == pytest.approx(analyse([w]).contraction)


def test_row_stochastic_mixing_ends_in_the_mean_weighted_by_the_left_eigenvector() -> None:
    w = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.0, 0.2, 0.8]])
    x = np.array([1.0, 2.0, 4.0])

    np.testing.assert_allclose(np.linalg.matrix_power(w, 300) @ x, stationary(w) @ x)
    assert analyse([w]).row_stochastic
    assert not analyse([w]).doubly_stochastic


def test_the_stationary_vector_is_the_left_eigenvector_not_the_right_one() -> None:
    w = np.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.0, 0.2, 0.8]])

    np.testing.assert_allclose(stationary(w), [0.125, 0.25, 0.625])


def test_push_sum_shares_follow_the_right_eigenvector() -> None:
    p = push_sum(np.array([[0, 0, 1], [1, 0, 0], [1, 1, 0]], dtype=bool))

    np.testing.assert_allclose(p @ stationary(p), stationary(p))


def test_two_sites_that_swap_values_never_agree() -> None:
    swap = np.array([[0.0, 1.0], [1.0, 0.0]])

    properties = analyse([swap])

    assert properties.doubly_stochastic
    assert properties.connected
    assert not properties.primitive
    assert properties.contraction == 1
    assert iterations_to(1e-3, properties.contraction, period=1) is None


def test_parts_that_do_not_hear_of_each_other_are_not_connected() -> None:
    properties = analyse([np.kron(np.eye(2), np.full((2, 2), 0.5))])

    assert not properties.connected
    assert properties.contraction == 1
