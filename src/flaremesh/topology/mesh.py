"""A topology's graph and mixing matrices, on which every other layer builds."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import numpy as np

from flaremesh.topology.analysis import Properties, analyse
from flaremesh.topology.graphs import Digraph, GraphError, foreign_rule, phases
from flaremesh.topology.neighborhood import Neighborhood, neighborhoods
from flaremesh.topology.schema import Run, Topology
from flaremesh.topology.weights import Matrix, mixing_matrix


@dataclass(frozen=True)
class Mesh:
    """The weighted graph of a topology.

    Attributes:
        sites: names in the file's order, the order of rows and columns.
        graph: the edges of all phases; an edge (j, i) means that i uses the value of j.
        matrices: W (n, n) float64 of each phase; iteration k uses phase k mod len(matrices).
    """

    sites: tuple[str, ...]
    graph: Digraph
    matrices: tuple[Matrix, ...]

    @cached_property
    def schedules(self) -> Mapping[str, tuple[Neighborhood, ...]]:
        """Each site's neighbourhood of each phase."""
        per_phase = [neighborhoods(self.sites, matrix) for matrix in self.matrices]
        return {site: tuple(hoods[site] for hoods in per_phase) for site in self.sites}

    @cached_property
    def properties(self) -> Properties:
        """Facts about the mixing matrices of one period."""
        return analyse(self.matrices)

    def neighbors(self, site: str) -> frozenset[str]:
        """The sites that share an edge with ``site``, in whichever direction."""
        return frozenset((*self.graph.successors(site), *self.graph.predecessors(site))) - {site}

    def predicted_contraction(self, run: Run) -> float | None:
        """What a run's mixing contracts by; None where it is clipped, which depends on the vectors."""
        return None if run.mixing.clip is not None else self.contraction(run.wire.step)

    def contraction(self, step: float = 1.0) -> float:
        """Factor per iteration by which mixing with the step size γ, x⁺ = ((1 − γ)I + γW)x, contracts.

        Args:
            step: γ; below 1 only where the graph does not change.
        """
        if step == 1:
            return self.properties.contraction
        lazy = (1 - step) * np.eye(len(self.sites))
        return analyse([lazy + step * matrix for matrix in self.matrices]).contraction


def build(topology: Topology) -> Mesh:
    """Graph and mixing matrices of a loaded topology; the same topology always gives the same mesh.

    Raises:
        GraphError: the graph does not exist over this number of sites, or not with this rule.
        MissingExtra: optimal weights need the extra ``optimal-weights``.
    """
    if mistake := foreign_rule(topology.graph, topology.weights):
        raise GraphError("weights", *mistake)
    sites = tuple(site.name for site in topology.sites)
    graphs = phases(topology.graph, sites)
    return Mesh(
        sites=sites,
        graph=nx.compose_all(graphs),
        matrices=tuple(mixing_matrix(graph, topology.weights) for graph in graphs),
    )
