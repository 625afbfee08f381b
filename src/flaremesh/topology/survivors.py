"""The mesh of the sites that are left when others have gone."""

from collections.abc import Collection, Sequence

import networkx as nx
import numpy as np

from flaremesh.errors import FlaremeshError
from flaremesh.topology.mesh import Mesh
from flaremesh.topology.schema import WeightRule
from flaremesh.topology.weights import Matrix, by_rule


class Disconnected(FlaremeshError):
    """Without those that are gone, not all sites reach each other."""


def survivors(
    sites: Sequence[str], matrices: Sequence[Matrix], rule: WeightRule, left: Collection[str]
) -> Mesh:
    """The subgraph of the sites that are left, with weights by the same rule.

    Explicit weights stay as they are: what they leave of 1 is the site's own, as ever, so that a symmetric
    matrix stays doubly stochastic. In place of optimal weights there are Metropolis's, whose edges everyone
    can tell; an edge to which optimal weights gave 0 is none here either.

    Args:
        sites: all of them, in the order of rows and columns.
        matrices: W (n, n) of each phase.
        rule: by which these were made.
        left: names of the sites that are left.

    Raises:
        Disconnected: they are not connected, or are none.
    """
    rule = "metropolis" if rule == "optimal" else rule
    rows = [row for row, site in enumerate(sites) if site in left]
    names = tuple(sites[row] for row in rows)
    edges = [_edges(matrix[np.ix_(rows, rows)]) for matrix in matrices]
    graph = nx.from_numpy_array(np.sum(edges, axis=0).T, create_using=nx.DiGraph)
    if not rows or not nx.is_strongly_connected(graph):
        gone = ", ".join(site for site in sites if site not in left)
        raise Disconnected(
            f"without {gone} the sites that are left ({', '.join(names)}) are not connected, and cannot "
            "agree: a graph with more edges survives more"
        )
    named = nx.relabel_nodes(graph, dict(enumerate(names)))
    return Mesh(names, named, tuple(by_rule(weights, rule) for weights in edges))


def _edges(matrix: Matrix) -> Matrix:
    """The weights of the edges alone."""
    without: Matrix = matrix - np.diag(np.diag(matrix))
    return without
