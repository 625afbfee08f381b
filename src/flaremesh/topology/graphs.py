"""Makes the edges of a graph from its description in a topology file.

An edge (j, i) of a DiGraph means that site i uses the value of site j; an undirected edge is two of them.
"""

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import networkx as nx

from flaremesh.errors import FlaremeshError
from flaremesh.topology.base_graph import base_graph
from flaremesh.topology.schema import (
    BaseGraph,
    CirculantGraph,
    EdgeListFile,
    EquiTopo,
    ErdosRenyi,
    ExplicitGraph,
    FixedGraph,
    Graph,
    GridGraph,
    MaybeDirected,
    OnePeerEquiTopo,
    RandomPeers,
    RandomRegular,
    WattsStrogatz,
    WeightedGraph,
)

Digraph: TypeAlias = "nx.DiGraph[str]"


def foreign_rule(graph: Graph, rule: str) -> tuple[str, str] | None:
    """Why a rule must not weigh a graph's edges, and the remedy; None where it may."""
    if rule == "explicit" or not isinstance(graph, WeightedGraph):
        return None
    return f"{graph.kind} has weights of its own, not {rule} ones", "leave weights out, or write explicit"


class GraphError(FlaremeshError):
    """The graph cannot be built over these sites.

    Attributes:
        field: the field of the graph.
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
    The edges of a WeightedGraph, and of an ExplicitGraph that has weights, carry them as ``weight``.

    Raises:
        GraphError: no such graph exists over this number of sites.
    """
    n = len(sites)
    if (edges := _expected_edges(graph, n)) > _MOST_EDGES:
        raise GraphError(
            "kind",
            f"{n} sites would have {edges:,.0f} edges, and {_MOST_EDGES:,} are the most",
            "draw fewer phases"
            if isinstance(graph, RandomPeers)
            else "take a sparser graph, e.g. exponential or random-regular",
        )
    match graph:
        case FixedGraph(kind="one-peer-exponential"):
            return tuple(_directed(sites, _circle(n, [hop])) for hop in _hops(n))
        case ExplicitGraph():
            return _explicit(graph, sites)
        case EdgeListFile():
            raise GraphError("file", f"the edges are still in {graph.file}", "read the topology with load()")
        case BaseGraph():
            pairs = base_graph(n, graph.degree)
            return tuple(
                _weighted(sites, phase | {(j, i): w for (i, j), w in phase.items()}) for phase in pairs
            )
        case EquiTopo():
            return (_weighted(sites, _equitopo(n, graph)),)
        case OnePeerEquiTopo():
            weight = (n - 1) / (2 * n)
            hops = _random_hops(n, graph)
            return tuple(_weighted(sites, dict.fromkeys(_circle(n, [hop]), weight)) for hop in hops)
        case RandomPeers():
            return tuple(_weighted(sites, edges) for edges in _random_peers(n, graph))
    one_way = isinstance(graph, MaybeDirected) and graph.directed
    return ((_directed if one_way else _undirected)(sites, _edges(graph, n)),)


_MOST_EDGES = 300_000


def _expected_edges(graph: Graph, n: int) -> float:
    """Number of directed edges of a graph that a few words describe, in all phases."""
    match graph:
        case BaseGraph():
            return n * min(graph.degree, n - 1)
        case EquiTopo():
            return n * min(_number_of_hops(n, graph), n - 1) * (1 if graph.directed else 2)
        case OnePeerEquiTopo():
            return n * min(_number_of_hops(n, graph), n - 1)
        case RandomPeers():
            return n * min(graph.peers, n - 1) * graph.phases
        case FixedGraph(kind="complete"):
            return n * (n - 1)
        case ErdosRenyi():
            return graph.p * n * (n - 1)
        case RandomRegular():
            return n * min(graph.degree, n - 1)
        case WattsStrogatz():
            return n * min(graph.k, n - 1)
    return 0


def directed(graph: Digraph) -> bool:
    """Whether some edge has no edge back."""
    return any(not graph.has_edge(i, j) for j, i in graph.edges)


def _directed(sites: Sequence[str], edges: Iterable[tuple[int, int]]) -> Digraph:
    graph: Digraph = nx.DiGraph()
    graph.add_nodes_from(sites)
    graph.add_edges_from((sites[j], sites[i]) for j, i in edges)
    return graph


def _weighted(sites: Sequence[str], weights: Mapping[tuple[int, int], float]) -> Digraph:
    graph: Digraph = nx.DiGraph()
    graph.add_nodes_from(sites)
    graph.add_weighted_edges_from((sites[j], sites[i], weight) for (j, i), weight in weights.items())
    return graph


def _undirected(sites: Sequence[str], edges: Iterable[tuple[int, int]]) -> Digraph:
    return _directed(sites, [edge for j, i in edges for edge in ((j, i), (i, j))])


def _edges(graph: Graph, n: int) -> Iterable[tuple[int, int]]:
    """Edges between the positions 0, …, n − 1."""
    match graph:
        case FixedGraph(kind="path"):
            return _pairs(nx.path_graph(n))
        case FixedGraph(kind="star"):
            return _pairs(nx.star_graph(n - 1))
        case FixedGraph(kind="complete"):
            return _pairs(nx.complete_graph(n))
        case FixedGraph(kind="hypercube"):
            return _hypercube(n)
        case CirculantGraph(kind="ring"):
            return _circle(n, [1])
        case CirculantGraph(kind="exponential"):
            return _circle(n, _hops(n))
        case GridGraph():
            return _grid(n, graph)
        case ErdosRenyi():
            return _pairs(
                nx.gnp_random_graph(n, graph.p, seed=random.Random(graph.seed), directed=graph.directed)
            )
        case RandomRegular():
            return _random_regular(n, graph)
        case WattsStrogatz():
            return _watts_strogatz(n, graph)
    raise TypeError(f"no edges for {type(graph).__name__}")


def _pairs(graph: "nx.Graph[int]") -> Iterable[tuple[int, int]]:
    return list(graph.edges)


def _explicit(graph: ExplicitGraph, sites: Sequence[str]) -> tuple[Digraph, ...]:
    count = max(edge.phase for edge in graph.edges)
    if count > 1 and count * len(sites) > _MOST_EDGES:
        problem = f"{len(sites)} sites in {count:,} phases take too much memory"
        raise GraphError("edges", problem, f"write at most {_MOST_EDGES // len(sites):,} phases")
    results = tuple(_directed(sites, ()) for _ in range(count))
    for edge in graph.edges:
        weight = {} if edge.weight is None else {"weight": edge.weight}
        result = results[edge.phase - 1]
        result.add_edge(edge.source, edge.target, **weight)
        if not graph.directed:
            result.add_edge(edge.target, edge.source, **weight)
    return results


def _number_of_hops(n: int, graph: EquiTopo | OnePeerEquiTopo) -> int:
    return graph.hops or min(n - 1, math.ceil(2 * math.log(n)))


def _random_hops(n: int, graph: EquiTopo | OnePeerEquiTopo) -> list[int]:
    hops = _number_of_hops(n, graph)
    if hops > n - 1:
        raise GraphError("hops", f"on a circle of {n} sites there are {n - 1} hops", f"write at most {n - 1}")
    return random.Random(graph.seed).sample(range(1, n), hops)


def _equitopo(n: int, graph: EquiTopo) -> Mapping[tuple[int, int], float]:
    """The mean of (n − 1)/n Pᵘ + I/n over the hops u, where P is the circle; undirected with its transpose.

    EquiStatic of Song et al. 2022, arXiv 2210.07881. Its hops are drawn with replacement; without, as here,
    the bounds of sums of random matrices by which it shows ρ = O(1) hold too (Gross and Nesme 2010).
    """
    hops = _random_hops(n, graph)
    weight = (n - 1) / (n * len(hops))
    weights: defaultdict[tuple[int, int], float] = defaultdict(float)
    for j, i in _circle(n, hops):
        for edge in ((j, i),) if graph.directed else ((j, i), (i, j)):
            weights[edge] += weight if graph.directed else weight / 2
    return weights


def _random_peers(n: int, graph: RandomPeers) -> Iterator[Mapping[tuple[int, int], float]]:
    """In each phase sites on a circle in random order, each of which hears those right before it.

    EL-Oracle of De Vos et al. 2023, arXiv 2310.01972, its oracle being the seed: s-regular, with weights
    1/(s + 1). Since those whom a site hears are a random set of s others, E‖WX − X̄‖² = β‖X − X̄‖², with the
    paper's β = (1 − s/(n − 1))/(s + 1).
    """
    if graph.peers >= n:
        raise GraphError("peers", f"a site has {n - 1} others", f"write at most {n - 1}")
    generator = random.Random(graph.seed)
    for _ in range(graph.phases):
        order = generator.sample(range(n), n)
        edges = ((order[j], order[i]) for j, i in _circle(n, range(1, graph.peers + 1)))
        yield dict.fromkeys(edges, 1 / (graph.peers + 1))


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


def _random_regular(n: int, graph: RandomRegular) -> Iterable[tuple[int, int]]:
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
    generator = random.Random(graph.seed)
    if n > _DENSE and 2 * d > n:  # trials of a dense graph mostly fail, those of its complement succeed
        return _pairs(nx.complement(nx.random_regular_graph(n - 1 - d, n, seed=generator)))
    return _pairs(nx.random_regular_graph(d, n, seed=generator))


_DENSE = 40  # sites; with fewer, failed trials take no time


def _watts_strogatz(n: int, graph: WattsStrogatz) -> Iterable[tuple[int, int]]:
    if graph.k >= n or graph.k % 2:
        raise GraphError(
            "k", f"{n} sites cannot start with {graph.k} neighbours each", f"write an even number below {n}"
        )
    return _pairs(nx.watts_strogatz_graph(n, graph.k, graph.p, seed=random.Random(graph.seed)))
