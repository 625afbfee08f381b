import random

import numpy as np
import pytest

from flaremesh.p2p.networks import generate_random_network, network_of
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
