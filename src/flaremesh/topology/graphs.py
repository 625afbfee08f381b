"""From the description of a graph to its edges.

An edge (j, i) of a DiGraph means that site i uses the value of site j; an undirected edge is two of them.
"""

import math
import random
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import networkx as nx

from flaremesh.errors import FlaremeshError
from flaremesh.topology.schema import (
    CirculantGraph,
    EdgeListFile,
    ErdosRenyi,
    ExplicitGraph,
    FixedGraph,
    Graph,
    GridGraph,
    RandomRegular,
    WattsStrogatz,
)

Digraph: TypeAlias = "nx.DiGraph[str]"


class GraphError(FlaremeshError):
    """The graph cannot be built over these sites.

    Attributes:
        field: the field of the graph or, if empty, the graph itself.
        problem: what is wrong.
        remedy: what to write instead.
    """

    exit_code = 2

    def __init__(self, field: str, problem: str, remedy: str):
        self.field, self.problem, self.remedy = field, problem, remedy
        super().__init__(f"{problem}; {remedy}")


def phases(graph: Graph, sites: Sequence[str]) -> tuple[Digraph, ...]:
    """The graph over ``sites``, in their order; iteration k uses phase k mod len(phases).

    Random graphs depend on nothing but their fields and the number of sites, and touch no global generator.

    Raises:
        GraphError: no such graph exists over this number of sites.
    """
    n = len(sites)
    edges: Iterable[tuple[int, int]]
    match graph:
        case FixedGraph(kind="one-peer-exponential"):
            return tuple(_directed(sites, _circle(n, [hop])) for hop in _hops(n))
        case FixedGraph(kind="path"):
            return (_undirected(sites, nx.path_graph(n).edges),)
        case FixedGraph(kind="star"):
            return (_undirected(sites, nx.star_graph(n - 1).edges),)
        case FixedGraph(kind="complete"):
            return (_undirected(sites, nx.complete_graph(n).edges),)
        case FixedGraph(kind="hypercube"):
            return (_undirected(sites, _hypercube(n)),)
        case CirculantGraph():
            edges = _circle(n, [1] if graph.kind == "ring" else _hops(n))
        case GridGraph():
            edges = _grid(n, graph)
        case ErdosRenyi():
            edges = nx.gnp_random_graph(
                n, graph.p, seed=random.Random(graph.seed), directed=graph.directed
            ).edges
        case RandomRegular():
            edges = _random_regular(n, graph)
        case WattsStrogatz():
            edges = _watts_strogatz(n, graph)
        case ExplicitGraph():
            return (_explicit(graph, sites),)
        case EdgeListFile():
            raise GraphError(
                "file",
                f"the edges are still in {graph.file}",
                "read the topology with load()",
            )
    one_way = getattr(graph, "directed", False)
    return (_directed(sites, edges) if one_way else _undirected(sites, edges),)


def directed(graph: Digraph) -> bool:
    """Whether some edge has no edge back."""
    return any(not graph.has_edge(i, j) for j, i in graph.edges)


def _directed(sites: Sequence[str], edges: Iterable[tuple[int, int]]) -> Digraph:
    graph: Digraph = nx.DiGraph()
    graph.add_nodes_from(sites)
    graph.add_edges_from((sites[j], sites[i]) for j, i in edges)
    return graph


def _undirected(sites: Sequence[str], edges: Iterable[tuple[int, int]]) -> Digraph:
    return _directed(sites, [edge for j, i in edges for edge in ((j, i), (i, j))])


def _explicit(graph: ExplicitGraph, sites: Sequence[str]) -> Digraph:
    result: Digraph = nx.DiGraph()
    result.add_nodes_from(sites)
    for edge in graph.edges:
        ends = (
            [(edge.source, edge.target)]
            if graph.directed
            else [(edge.source, edge.target), (edge.target, edge.source)]
        )
        for source, target in ends:
            result.add_edge(source, target, **({} if edge.weight is None else {"weight": edge.weight}))
    return result


def _hops(n: int) -> list[int]:
    return [2**k for k in range(math.ceil(math.log2(n)))]


def _circle(n: int, hops: Iterable[int]) -> list[tuple[int, int]]:
    return [(j, (j + hop) % n) for hop in hops for j in range(n)]


def _hypercube(n: int) -> list[tuple[int, int]]:
    if n & (n - 1):
        raise GraphError(
            "kind",
            f"a hypercube has 2, 4, 8, 16, … sites, not {n}",
            "take another kind, e.g. exponential, or add sites",
        )
    return [(j, j ^ bit) for bit in _hops(n) for j in range(n) if j < j ^ bit]


def _grid(n: int, graph: GridGraph) -> list[tuple[int, int]]:
    shortest = 3 if graph.kind == "torus" else 2  # a torus with a side of 2 would have double edges
    possible = [rows for rows in range(shortest, n // shortest + 1) if n % rows == 0]
    if not possible:
        raise GraphError(
            "kind",
            f"{n} sites fill no {graph.kind}: it needs rows × columns with both at least {shortest}",
            "take another kind, e.g. ring or random-regular, or another number of sites",
        )
    rows = graph.rows or max(rows for rows in possible if rows * rows <= n)
    if rows not in possible:
        raise GraphError(
            "rows",
            f"{n} sites in {rows} rows make no {graph.kind}",
            f"write one of {', '.join(map(str, possible))}, or leave it out",
        )
    columns = n // rows
    grid = nx.grid_2d_graph(rows, columns, periodic=graph.kind == "torus")
    return [(a * columns + b, c * columns + d) for (a, b), (c, d) in grid.edges]


def _random_regular(n: int, graph: RandomRegular) -> list[tuple[int, int]]:
    d = graph.degree
    if d >= n:
        raise GraphError(
            "degree", f"{n} sites cannot have {d} neighbours each", f"write a degree of at most {n - 1}"
        )
    if n * d % 2:
        raise GraphError(
            "degree",
            f"{n} sites with {d} neighbours each would have {n * d}/2 edges",
            f"write an even degree, e.g. {d - 1 or 2}, or add a site",
        )
    return list(nx.random_regular_graph(d, n, seed=random.Random(graph.seed)).edges)


def _watts_strogatz(n: int, graph: WattsStrogatz) -> list[tuple[int, int]]:
    if graph.k >= n or graph.k % 2:
        raise GraphError(
            "k", f"{n} sites cannot start with {graph.k} neighbours each", f"write an even number below {n}"
        )
    return list(nx.watts_strogatz_graph(n, graph.k, graph.p, seed=random.Random(graph.seed)).edges)
