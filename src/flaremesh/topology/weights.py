"""Mixing matrices: one function per rule.

All take the adjacency A (n, n) bool of one phase, a_ij true when site i uses the value of site j, with a
false diagonal, and return W (n, n) float64 whose row i holds the weights with which site i mixes.
"""

from collections.abc import Callable

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from flaremesh.errors import FlaremeshError
from flaremesh.topology.graphs import Digraph
from flaremesh.topology.schema import WeightRule

Adjacency = NDArray[np.bool_]
Matrix = NDArray[np.float64]


class MissingExtra(FlaremeshError):
    """An optional dependency is not installed."""


def metropolis(a: Adjacency) -> Matrix:
    """Metropolis–Hastings: w_ij = 1/(1 + max(d_i, d_j)); doubly stochastic and symmetric where A is."""
    degree = a.sum(axis=1)
    return _with_self_weights(a / (1 + np.maximum.outer(degree, degree)))


def uniform(a: Adjacency) -> Matrix:
    """w_ij = 1/(1 + d_i): the mean of own and in-neighbours' values; doubly stochastic on regular graphs."""
    return _with_self_weights(a / (1 + a.sum(axis=1, keepdims=True)))


def max_degree(a: Adjacency) -> Matrix:
    """w_ij = 1/(1 + max d); doubly stochastic where every site has as many in- as out-neighbours."""
    return _with_self_weights(a / (1 + a.sum(axis=1).max()))


def lazy(a: Adjacency) -> Matrix:
    """(I + W)/2 with Metropolis weights: all eigenvalues are positive."""
    return (np.eye(len(a)) + metropolis(a)) / 2


def push_sum(a: Adjacency) -> Matrix:
    """Each site splits its value evenly among itself and its out-neighbours: columns sum to one."""
    shares: Matrix = (a + np.eye(len(a))) / (1 + a.sum(axis=0))
    return shares


def optimal(a: Adjacency) -> Matrix:
    """Fastest distributed linear averaging: the symmetric W ≥ 0 on A that minimises ‖W − J‖₂.

    A semidefinite programme (Xiao and Boyd 2004), meant for up to about a hundred sites. An edge that
    does not help gets the weight 0, which is no edge.

    Raises:
        MissingExtra: cvxpy is not installed.
    """
    try:
        import cvxpy
    except ImportError:
        raise MissingExtra(
            "optimal weights need cvxpy: install the extra with pip install 'flaremesh[optimal-weights]', "
            "or write weights: metropolis"
        ) from None
    n = len(a)
    rows, columns = np.nonzero(np.triu(a))
    incidence = np.zeros((n, len(rows)))
    incidence[rows, range(len(rows))] = 1
    incidence[columns, range(len(rows))] = -1
    weight = cvxpy.Variable(len(rows), nonneg=True)
    # I − B diag(w) Bᵀ is symmetric and doubly stochastic whatever w is
    w = np.eye(n) - incidence @ cvxpy.diag(weight) @ incidence.T
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sigma_max(w - 1 / n)), [cvxpy.diag(w) >= 0])
    problem.solve()
    found = np.zeros((n, n))
    found[rows, columns] = np.where(weight.value > 1e-6, weight.value, 0)  # less is the solver's noise
    return _with_self_weights(found + found.T)


RULES: dict[WeightRule, Callable[[Adjacency], Matrix]] = {
    "metropolis": metropolis,
    "uniform": uniform,
    "max-degree": max_degree,
    "lazy": lazy,
    "optimal": optimal,
    "push-sum": push_sum,
}
"""Every rule that needs nothing but the graph: all but ``explicit``."""

UNDIRECTED_ONLY: frozenset[WeightRule] = frozenset({"metropolis", "lazy", "optimal"})


def mixing_matrix(graph: Digraph, rule: WeightRule) -> Matrix:
    """W (n, n) of one phase by a rule, or by the edges' own weights."""
    return by_rule(nx.to_numpy_array(graph).T, rule)


def by_rule(weights: Matrix, rule: WeightRule) -> Matrix:
    """W (n, n) of one phase by a rule.

    Args:
        weights: of the edges (n, n), with a diagonal of zeros; all rules but ``explicit`` ask only which are
            above zero.
        rule: the rule.
    """
    return _with_self_weights(weights) if rule == "explicit" else RULES[rule](weights > 0)


def _with_self_weights(off_diagonal: Matrix) -> Matrix:
    rest = 1 - off_diagonal.sum(axis=1)
    rest[np.abs(rest) < 1e-12] = 0  # rounding must not leave a weight of −1e-17
    matrix: Matrix = off_diagonal + np.diag(rest)
    return matrix
