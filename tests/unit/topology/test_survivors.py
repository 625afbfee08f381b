"""The sites that are left have the subgraph, with weights by the same rule."""

import networkx as nx
import numpy as np
import pytest

from flaremesh.topology.analysis import analyse
from flaremesh.topology.survivors import Disconnected, survivors
from flaremesh.topology.weights import RULES, UNDIRECTED_ONLY, mixing_matrix

RING = nx.DiGraph([edge for i in range(5) for edge in ((i, (i + 1) % 5), ((i + 1) % 5, i))])
SITES = ("aachen", "bonn", "celle", "dresden", "essen")


def left_of(matrix, rule, left, more=()):
    return survivors(SITES, [matrix, *more], rule, left)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_the_weights_are_those_that_the_rule_gives_to_the_subgraph(rule):
    adjacency = nx.to_numpy_array(RING).T > 0
    mesh = left_of(RULES[rule](adjacency), rule, {"aachen", "bonn", "celle", "dresden"})
    assert mesh.sites == SITES[:4]
    told = RULES["metropolis" if rule == "optimal" else rule]
    np.testing.assert_allclose(mesh.matrices[0], told(adjacency[:4, :4]), atol=1e-12)
    doubly = mesh.properties.doubly_stochastic
    assert doubly or rule not in {*UNDIRECTED_ONLY, "max-degree"}


def test_explicit_weights_stay_and_what_they_leave_of_one_is_the_sites_own():
    graph = nx.DiGraph()
    for i in range(5):
        graph.add_edge(i, (i + 1) % 5, weight=0.3)
        graph.add_edge((i + 1) % 5, i, weight=0.3)
    mesh = left_of(mixing_matrix(graph, "explicit"), "explicit", SITES[1:])
    np.testing.assert_allclose(
        mesh.matrices[0], [[0.7, 0.3, 0, 0], [0.3, 0.4, 0.3, 0], [0, 0.3, 0.4, 0.3], [0, 0, 0.3, 0.7]]
    )
    assert analyse(mesh.matrices).doubly_stochastic


def test_sites_that_nobody_connects_any_more_are_named():
    with pytest.raises(Disconnected, match=r"without bonn, essen the sites that are left \(aachen, celle"):
        left_of(mixing_matrix(RING, "metropolis"), "metropolis", {"aachen", "celle", "dresden"})


def test_a_directed_graph_must_stay_strongly_connected():
    circle = nx.DiGraph([(i, (i + 1) % 5) for i in range(5)])
    with pytest.raises(Disconnected):
        left_of(mixing_matrix(circle, "push-sum"), "push-sum", SITES[:4])


def test_phases_need_to_connect_only_together():
    shift = np.eye(5)[[1, 2, 3, 4, 0]]
    one, other = ((np.eye(5) + part) / 2 for part in (shift, shift.T))
    mesh = left_of(one, "push-sum", SITES[:4], [other])
    assert [matrix.shape for matrix in mesh.matrices] == [(4, 4), (4, 4)]
    assert mesh.properties.connected
    assert set(mesh.graph) == set(SITES[:4])
