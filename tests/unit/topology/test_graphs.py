"""The graphs of all kinds."""

import random
import subprocess
import sys
from typing import Any

import networkx as nx
import numpy as np
import pytest
from pydantic import TypeAdapter

from flaremesh.topology.graphs import Digraph, directed, phases
from flaremesh.topology.schema import Graph


def described(description: dict[str, Any], n: int) -> tuple[Digraph, ...]:
    graph = TypeAdapter[Any](Graph).validate_python(description)
    return phases(graph, [f"s{i}" for i in range(n)])


@pytest.mark.parametrize(
    ("description", "n", "degrees"),
    [
        ({"kind": "ring"}, 2, {1}),
        ({"kind": "ring"}, 5, {2}),
        ({"kind": "path"}, 4, {1, 2}),
        ({"kind": "star"}, 5, {1, 4}),
        ({"kind": "complete"}, 5, {4}),
        ({"kind": "grid"}, 9, {2, 3, 4}),
        ({"kind": "grid", "rows": 2}, 8, {2, 3}),
        ({"kind": "torus"}, 12, {4}),
        ({"kind": "hypercube"}, 8, {3}),
        ({"kind": "exponential"}, 16, {7}),
        ({"kind": "random-regular", "degree": 3}, 10, {3}),
        ({"kind": "random-regular", "degree": 90}, 100, {90}),  # which no trial and error finds
        ({"kind": "watts-strogatz", "k": 4, "p": 0}, 10, {4}),
        ({"kind": "erdos-renyi", "p": 1}, 4, {3}),
    ],
)
def test_an_undirected_kind_has_its_degrees_and_every_edge_both_ways(
    description: dict[str, Any], n: int, degrees: set[int]
) -> None:
    (graph,) = described(description, n)

    assert {degree for _, degree in graph.in_degree} == degrees
    assert not directed(graph)
    assert nx.is_strongly_connected(graph)
    assert list(graph) == [f"s{i}" for i in range(n)]


def test_a_directed_ring_passes_values_on_in_the_order_of_the_file() -> None:
    (graph,) = described({"kind": "ring", "directed": True}, 3)

    assert set(graph.edges) == {("s0", "s1"), ("s1", "s2"), ("s2", "s0")}


def test_a_directed_exponential_graph_hears_from_the_powers_of_two_behind() -> None:
    (graph,) = described({"kind": "exponential", "directed": True}, 8)

    assert set(graph.predecessors("s0")) == {"s7", "s6", "s4"}


def test_the_one_peer_exponential_graph_takes_the_powers_of_two_in_turn() -> None:
    graphs = described({"kind": "one-peer-exponential"}, 8)

    assert [set(graph.predecessors("s0")) for graph in graphs] == [{"s7"}, {"s6"}, {"s4"}]


RANDOM = [
    {"kind": "erdos-renyi", "p": 0.3},
    {"kind": "erdos-renyi", "p": 0.3, "directed": True},
    {"kind": "random-regular", "degree": 4},
    {"kind": "watts-strogatz", "k": 4, "p": 0.5},
]


@pytest.mark.parametrize("description", RANDOM)
def test_a_seed_alone_fixes_a_random_graph(description: dict[str, Any]) -> None:
    random.seed(1)
    np.random.seed(1)  # the global generator is what must not matter
    before = random.getstate(), np.random.get_state()[1].tolist()

    first = described(description | {"seed": 7}, 20)[0].edges
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before

    random.seed(2)
    np.random.seed(2)  # see above
    assert described(description | {"seed": 7}, 20)[0].edges == first
    assert described(description | {"seed": 8}, 20)[0].edges != first


def test_a_seed_fixes_a_random_graph_in_every_process() -> None:
    program = (
        "from flaremesh.topology.graphs import phases; from flaremesh.topology.schema import *\n"
        "for graph in [ErdosRenyi(kind='erdos-renyi', p=0.3),\n"
        "              RandomRegular(kind='random-regular', degree=4),\n"
        "              WattsStrogatz(kind='watts-strogatz', k=4, p=0.5)]:\n"
        "    print(list(phases(graph, [f's{i}' for i in range(20)])[0].edges))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2")
    }

    assert len(outputs) == 1
    assert b"s19" in outputs.pop()
