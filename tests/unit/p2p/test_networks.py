"""Random networks, and networks made from meshes."""

import random

import numpy as np
import pytest

from flaremesh.p2p.networks import generate_random_network, network_of
from flaremesh.p2p.types import NetworkError
from flaremesh.topology.analysis import analyse
from flaremesh.topology.graphs import phases
from flaremesh.topology.mesh import Mesh
from flaremesh.topology.schema import CirculantGraph, FixedGraph
from flaremesh.topology.weights import mixing_matrix


def test_a_seed_fixes_the_random_network_whatever_the_global_generators_did():
    random.seed(1)
    first, _ = generate_random_network(8, seed=7)
    random.seed(2)
    np.random.seed(2)
    assert generate_random_network(8, seed=7)[0] == first
    assert generate_random_network(8, seed=8)[0] != first


def test_making_a_random_network_leaves_the_global_generators_alone():
    before = random.getstate(), np.random.get_state()[1].tolist()
    generate_random_network(5)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


@pytest.mark.parametrize("seed", range(5))
def test_a_random_network_is_connected_and_its_matrix_doubly_stochastic(seed):
    network, w = generate_random_network(6, seed=seed)
    properties = analyse([w])
    assert properties.connected
    assert properties.doubly_stochastic
    np.testing.assert_array_equal(network.matrices(), [w])
    assert [node.id for node in network.nodes] == [f"site-{i}" for i in range(1, 7)]


def test_a_probability_too_small_for_a_connected_graph_ends_in_an_error():
    with pytest.raises(ValueError, match="take a p larger than 1e-06"):
        generate_random_network(30, p=1e-6)


def test_the_seed_comes_second_as_in_the_stock_package():
    (network, matrix), (named, _) = generate_random_network(6, 1), generate_random_network(6, seed=1, p=0.3)
    assert network == named
    assert (matrix == 0).any()  # and no complete graph


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((6, 0.3), "the seed comes second and is a whole number .*not 0.3; .*connection_probability=0.3"),
        ((6, 1.0, 42), "the seed comes second and is a whole number .*not 1"),
        ((6, -1), "the seed comes second and is a whole number from 0 on, not -1"),
        ((6, 1, 42), r"the probability of an edge must lie in \(0, 1\], not 42"),
        ((6, 1, 0.0), r"the probability of an edge must lie in \(0, 1\], not 0"),
        ((0,), "at least 1 client, not 0"),
    ],
)
def test_an_argument_in_anothers_place_is_refused(arguments, sentence):
    with pytest.raises(NetworkError, match=sentence):
        generate_random_network(*arguments)


@pytest.mark.parametrize(("n", "p"), [(2000, 1e-4), (300, 1e-3), (3, 1e-12)])
def test_a_hopeless_probability_is_told_at_once(n, p):
    with pytest.raises(NetworkError, match="hardly ever connected"):
        generate_random_network(n, connection_probability=p)


def test_a_network_of_one_client_has_no_edges():
    network, matrix = generate_random_network(1)
    assert network.nodes[0].neighbors == []
    assert matrix.tolist() == [[1]]


@pytest.mark.parametrize(
    ("graph", "rule"),
    [
        (FixedGraph(kind="one-peer-exponential"), "uniform"),
        (CirculantGraph(kind="ring", directed=True), "push-sum"),
        (FixedGraph(kind="star"), "metropolis"),
    ],
)
def test_a_mesh_and_its_network_have_the_same_matrices(graph, rule):
    sites = ("bonn", "heidelberg", "ulm", "worms")
    graphs = phases(graph, sites)
    mesh = Mesh(sites, graphs[0], tuple(mixing_matrix(phase, rule) for phase in graphs))
    np.testing.assert_array_equal(network_of(mesh).matrices(), mesh.matrices)
