"""Which graph and wire bring the sites of a run to agreement soonest, of the edges that were measured.

What is compared is the time in which mixing alone brings the disagreement down to a thousandth of what it
was: iterations to there, by the mixing matrix, times the seconds of an iteration. How fast an algorithm
optimises depends on its problem, too; this is the part of it that graph and wire have.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import networkx as nx
from pydantic import TypeAdapter

from flaremesh.provision.measured import Measurement
from flaremesh.provision.plan import unsoundness
from flaremesh.provision.prediction import Lines, PredictionError, WireLoads, WireTime, times
from flaremesh.topology.graphs import GraphError, directed
from flaremesh.topology.mesh import Mesh, build
from flaremesh.topology.schema import GRAPH_KINDS, Edge, ExplicitGraph, Graph, Topology, WeightedGraph

_GRAPH: Final = TypeAdapter[Graph](Graph)
_FAITHFUL: Final = ("exact", "int8")
_SKELETONS: Final = 16  # graphs of the fastest edges that are tried at most
_MOST_LOCAL_STEPS: Final = 100
_GAIN: Final = 0.05  # a proposal must save so much; figures are not exacter


@dataclass(frozen=True)
class Choice:
    """A graph with a wire.

    Attributes:
        graph: as in a topology file.
        weights: rule for the mixing matrix.
        edges: directed ones that the graph has.
        time: what the run takes.
    """

    graph: Graph
    weights: str
    edges: int
    time: WireTime

    @property
    def seconds(self) -> float:
        """Until the sites agree; infinite where they never do."""
        return math.inf if self.time.mixing_seconds is None else self.time.mixing_seconds


@dataclass(frozen=True)
class Tuning:
    """What was compared.

    Attributes:
        now: the file's own graph and wire; None where an edge of it was not measured.
        choices: all, the best one first.
    """

    now: Choice | None
    choices: Sequence[Choice]

    @property
    def proposal(self) -> Choice | None:
        """The best one, if it is better than what is in the file."""
        best = self.choices[0] if self.choices else None
        if best is None or (self.now and best.seconds > (1 - _GAIN) * self.now.seconds):
            return None
        return best


def tune(topology: Topology, measurement: Measurement, loads: WireLoads) -> Tuning:
    """Compare all graphs of measured edges that are tried, with all wires.

    Args:
        topology: the mesh and its run.
        measurement: of its edges.
        loads: what an iteration sends with each wire, the run's own first. That is compared, and those with
            which sites come to agree exactly, and as fast as their matrix says.

    Raises:
        GraphError, MissingExtra: the mesh cannot be built from the topology.
        PredictionError: no graph of measured edges holds all sites together.
    """
    lines = Lines(measurement)
    own, _ = loads[0]
    wires = [(wire, load) for wire, load in loads if wire == own or wire.encoding in _FAITHFUL]
    now: Choice | None = None
    found: dict[tuple[frozenset[tuple[str, str]], int], list[Choice]] = {}
    for candidate in _candidates(topology, lines):
        try:
            mesh = build(candidate)
        except GraphError:  # there is none with so many sites
            continue
        key = frozenset(mesh.graph.edges), len(mesh.matrices)
        if key in found or not _fits(candidate, mesh, lines):
            continue
        found[key] = [
            Choice(candidate.graph, candidate.weights, mesh.graph.number_of_edges(), each)
            for each in times(candidate, mesh, lines, wires)
        ]
        if candidate is topology:
            now = next((choice for choice in found[key] if choice.time.wire == own.encoding), None)
    choices = sorted(
        (choice for each in found.values() for choice in each), key=lambda choice: choice.seconds
    )
    if not choices:
        raise PredictionError(
            f"no graph of the edges that were measured joins all sites of {topology.name} so that "
            f"{topology.run.algorithm} is sound. Measure the mesh as it is: `flaremesh doctor --measure`."
        )
    return Tuning(now, choices)


def local_steps(exchange_seconds: float, step_seconds: float) -> int:
    """So many gradient steps between two exchanges that a site computes as long as it exchanges, or longer.

    More would save no more than half of the time, and make the sites differ more.

    Args:
        exchange_seconds: of an iteration without what the problem computes.
        step_seconds: of a gradient, or a local step.
    """
    return min(_MOST_LOCAL_STEPS, max(1, math.ceil(exchange_seconds / max(step_seconds, 1e-9))))


def _fits(topology: Topology, mesh: Mesh, lines: Lines) -> bool:
    edges = {edge for edge in mesh.graph.edges if edge[0] != edge[1]}
    return (
        edges <= lines.edges.keys()
        and mesh.properties.connected
        and unsoundness(topology.run.algorithm, mesh) is None
    )


def _candidates(topology: Topology, lines: Lines) -> Iterator[Topology]:
    """The topology itself, then with each graph that a word describes, then with the fastest edges alone."""
    yield topology
    weights = "metropolis" if topology.weights == "explicit" else topology.weights
    one_way = directed(build(topology).graph)
    for kind in GRAPH_KINDS:
        for fields in ({"kind": kind}, {"kind": kind, "directed": True}):
            try:
                graph = _GRAPH.validate_python(fields)
            except ValueError:  # it needs more words, or has no direction
                continue
            rule = "explicit" if isinstance(graph, WeightedGraph) else weights
            yield topology.model_copy(update={"graph": graph, "weights": rule})
    if one_way:
        return
    for edges in _skeletons([site.name for site in topology.sites], lines):
        graph = ExplicitGraph(edges=tuple(Edge.model_validate({"from": a, "to": b}) for a, b in edges))
        yield topology.model_copy(update={"graph": graph, "weights": weights})


def _skeletons(sites: Sequence[str], lines: Lines) -> Iterator[list[tuple[str, str]]]:
    """The tree of the fastest edges, then more and more edges, the fastest first."""
    graph: nx.Graph[str] = nx.Graph()
    graph.add_nodes_from(sites)
    for (source, target), edge in lines.edges.items():
        if (target, source) in lines.edges:
            slowness = 1 / min(edge.rate, lines.edges[target, source].rate)
            graph.add_edge(source, target, slowness=slowness)
    if not nx.is_connected(graph):
        return
    tree = nx.minimum_spanning_tree(graph, weight="slowness")
    others = sorted(
        (edge for edge in graph.edges if not tree.has_edge(*edge)),
        key=lambda edge: graph.edges[edge]["slowness"],
    )
    step = max(1, math.ceil(len(others) / _SKELETONS))
    for count in range(0, len(others) + 1, step):
        yield [*tree.edges, *others[:count]]
