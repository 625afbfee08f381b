"""Where secure aggregation hides a site's messages: what it asks of a graph."""

import re

import networkx as nx
import numpy as np
import pytest

from flaremesh.topology.aggregation import edges_to_add, exposures, groups, unsoundness
from flaremesh.topology.neighborhood import neighborhoods, with_partners
from flaremesh.topology.weights import by_rule


def schedules(graph, rule="metropolis"):
    matrix = by_rule(nx.to_numpy_array(graph), rule)
    names = [f"site{node}" for node in range(len(graph))]
    return {site: [hood] for site, hood in neighborhoods(names, matrix).items()}


HIDING = {
    "complete": nx.complete_graph(4),
    "wheel": nx.wheel_graph(6),
    "octahedron": nx.octahedral_graph(),
    "next but one": nx.circulant_graph(8, [1, 2]),
}
SHOWING = {
    "ring": nx.cycle_graph(8),
    "star": nx.star_graph(4),
    "grid": nx.convert_node_labels_to_integers(nx.grid_2d_graph(3, 3)),
    "pair": nx.complete_graph(2),
    "two triangles": nx.Graph([(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 2)]),
}


@pytest.mark.parametrize("graph", HIDING.values(), ids=HIDING)
def test_where_all_neighbours_are_joined_a_site_sees_one_sum(graph):
    found = schedules(graph)
    assert exposures(found) == {}
    assert unsoundness(found, symmetric=True) is None
    for site, (hood,) in found.items():
        ((group),) = groups(found)[site]
        assert set(group) == set(hood.in_weights)


def test_of_neighbours_that_are_not_joined_a_site_sees_each():
    assert exposures(schedules(nx.cycle_graph(5)))["site0"] == (("site1",), ("site4",))
    two = exposures(schedules(SHOWING["two triangles"]))
    assert two == {"site2": (("site0", "site1"), ("site3", "site4"))}


@pytest.mark.parametrize("name", [name for name in SHOWING if name != "pair"])
def test_with_the_edges_that_are_named_each_site_sees_one_sum(name):
    graph = nx.Graph(SHOWING[name])
    for _ in range(4):  # an edge that is added makes neighbours, which are to be joined as well
        graph.add_edges_from(
            tuple(int(site.removeprefix("site")) for site in edge) for edge in edges_to_add(schedules(graph))
        )
    assert exposures(schedules(graph)) == {}


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (SHOWING["ring"], "site0 would see site1 and site7; .*; and 4 more sites; add the edges .from: site"),
        (
            SHOWING["two triangles"],
            "site2 would see the sum of site0, site1 and the sum of site3, site4; add",
        ),
        (SHOWING["pair"], "site0 would see site1; .* it takes three sites or more"),
    ],
)
def test_a_refusal_names_who_would_see_whom_and_the_edges_to_add(graph, words):
    assert re.search(words, unsoundness(schedules(graph), symmetric=True))


def test_weights_that_differ_by_direction_and_graphs_that_change_are_refused():
    complete = schedules(HIDING["complete"])
    assert "write weights: metropolis" in unsoundness(complete, symmetric=False)
    changing = {site: [hood, hood] for site, (hood,) in complete.items()}
    assert "the graph changes" in unsoundness(changing, symmetric=True)


def test_partners_are_those_neighbours_of_a_receiver_that_are_neighbours_both_ways():
    one_way = np.array([[2, 1, 1, 0], [1, 1, 1, 1], [1, 0, 2, 1], [0, 1, 1, 2]]) / 4
    names = ["bonn", "jena", "kiel", "ulm"]
    hoods = with_partners({site: [hood] for site, hood in neighborhoods(names, one_way).items()})
    (bonn,), (kiel,) = hoods["bonn"], hoods["kiel"]
    assert bonn.partners == {"jena": ("kiel",), "kiel": ()}
    assert kiel.partners == {"bonn": (), "jena": ("bonn", "ulm"), "ulm": ()}
