"""What a schedule of mixing matrices does to the disagreement of the sites."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from flaremesh.topology.weights import Matrix

_TOLERANCE = 1e-9  # of sums of float64 weights and of explicit weights typed with few digits
_ROUNDING = 1e-12  # of norms and eigenvalues near 0 and 1


@dataclass(frozen=True)
class Properties:
    """Facts about the matrices W_1, …, W_τ of one period.

    Attributes:
        connected: whether information from every site reaches every other.
        row_stochastic, column_stochastic: whether rows, columns of every W_t sum to one, without negative
            entries.
        symmetric: whether every W_t is.
        primitive: whether some power of the period's product is entirely positive; mixing with stochastic
            matrices then converges.
        contraction: factor per iteration by which the disagreement shrinks: ρ = ‖W − J‖₂ where doubly
            stochastic, |λ₂| where only rows or only columns sum to one; for τ > 1 the geometric mean over the
            period. 0: exact after one period.
    """

    connected: bool
    row_stochastic: bool
    column_stochastic: bool
    symmetric: bool
    primitive: bool
    contraction: float

    @property
    def doubly_stochastic(self) -> bool:
        """Whether rows and columns sum to one, so that mixing preserves the mean."""
        return self.row_stochastic and self.column_stochastic

    @property
    def spectral_gap(self) -> float:
        """1 − contraction."""
        return 1 - self.contraction


def analyse(matrices: Sequence[Matrix]) -> Properties:
    """The properties of a period of mixing matrices, each (n, n)."""
    product = period(matrices)
    row = all(_stochastic(w, axis=1) for w in matrices)
    column = all(_stochastic(w, axis=0) for w in matrices)
    return Properties(
        connected=nx.is_strongly_connected(_support(np.sum(matrices, axis=0))),
        row_stochastic=row,
        column_stochastic=column,
        symmetric=all(np.allclose(w, w.T, rtol=0, atol=_TOLERANCE) for w in matrices),
        primitive=_primitive(product),
        contraction=contraction(matrices, doubly_stochastic=row and column),
    )


def period(matrices: Sequence[Matrix]) -> Matrix:
    """W_τ … W_1."""
    return reduce(lambda product, w: w @ product, matrices)


def contraction(matrices: Sequence[Matrix], *, doubly_stochastic: bool) -> float:
    """Contraction per iteration of a period, each matrix (n, n), as Properties defines it.

    Multiplies what the matrices do to deviations from the mean, and scales it on the way: in a long period's
    product itself that would be less than rounding, and look as if it were nothing.
    """
    deviation, before, logarithm = _centred(matrices[0]), math.sqrt(len(matrices[0]) - 1), 0.0
    for w in matrices[1:]:
        size = float(np.linalg.norm(deviation))
        if size <= _ROUNDING * before:
            return 0.0
        deviation, before = _centred(w) @ (deviation / size), 1.0
        logarithm += math.log(size)
    if not doubly_stochastic:
        factor = np.abs(np.linalg.eigvals(deviation)).max()
    elif np.allclose(deviation, deviation.T, rtol=0, atol=_TOLERANCE):
        factor = np.abs(np.linalg.eigvalsh(deviation)).max()
    else:
        factor = np.linalg.norm(deviation, 2)
    if factor <= _ROUNDING:
        return 0.0
    logarithm += math.log(factor)
    return 1.0 if logarithm > -_ROUNDING else math.exp(logarithm / len(matrices))


def _centred(w: Matrix) -> Matrix:
    """(I − J)W(I − J): W on the deviations from the mean, whose eigenvalues are W's but for one that is 1.

    Products of these are those of the matrices, centred, where all rows or all columns sum to one.
    """
    centred: Matrix = w - w.mean(axis=0) - w.mean(axis=1, keepdims=True) + w.mean()
    return centred


def stationary(product: Matrix) -> NDArray[np.float64]:
    """The weights π (n,), Σπ = 1, with which the sites' initial values enter the limit of mixing.

    For row-stochastic P the left eigenvector πP = π: all sites reach πᵀx⁰. For column-stochastic P the right
    one, Pπ = π: site i ends up with the share π_i of the sum. P must be irreducible.
    """
    n = len(product)
    fixed = product.T if _stochastic(product, axis=1) else product
    system = fixed - np.eye(n)
    system[-1] = 1  # one equation is redundant; Σπ = 1 takes its place
    solution: NDArray[np.float64] = np.linalg.solve(system, np.eye(n)[-1])
    return solution


def iterations_to(fraction: float, contraction: float, period: int) -> int | None:
    """Iterations until the disagreement is down to ``fraction`` of its start; None if it never is."""
    if contraction >= 1:
        return None
    return period if contraction == 0 else math.ceil(math.log(fraction) / math.log(contraction))


def _primitive(w: Matrix) -> bool:
    if (w > 0).all():
        return True  # and no graph of n² edges is made
    support = _support(w)
    return nx.is_strongly_connected(support) and nx.is_aperiodic(support)


def _support(w: Matrix) -> "nx.DiGraph[int]":
    return nx.from_numpy_array(w > 0, create_using=nx.DiGraph)


def _stochastic(w: Matrix, axis: int) -> bool:
    return bool((w >= 0).all() and np.allclose(w.sum(axis=axis), 1, rtol=0, atol=_TOLERANCE))
