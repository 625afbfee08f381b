"""Mixing matrices as tensors."""

from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from flaremesh.p2p.types import NetworkError
from flaremesh.topology.analysis import stationary
from flaremesh.topology.weights import metropolis

_TOLERANCE = 1e-4  # of sums of float32 weights


def doubly_stochastic_adjacency(graph: "nx.Graph[Any]") -> Tensor:
    """Metropolis–Hastings weights (n, n) float32, rows and columns in the order of the nodes.

    Weights and self-loops of the graph play no role.

    Raises:
        NetworkError: the graph has an edge without the edge back.
    """
    adjacency = nx.to_numpy_array(graph, weight=None) > 0  # type: ignore[call-overload]  # None: unweighted
    np.fill_diagonal(adjacency, val=False)
    if (adjacency != adjacency.T).any():
        raise NetworkError("the graph has one-way edges, for which no Metropolis weights exist")
    return torch.from_numpy(metropolis(adjacency)).float()


def get_matrix_steady_state(A: Tensor) -> Tensor:  # noqa: N803  (the name callers may use)
    """The weights π (n,) float32, Σπ = 1, with which the sites' initial values enter the limit of mixing.

    Where the rows of A (n, n) sum to one, πA = π; where only its columns do, Aπ = π.

    Raises:
        NetworkError: A is not such a matrix, or there are several such π, as in a graph of two parts.
    """
    matrix = torch.as_tensor(A).detach().cpu().double().numpy()
    if matrix.ndim != 2 or len(matrix) != matrix.shape[-1]:
        raise NetworkError(f"a mixing matrix is square, and this one has the shape {matrix.shape}")
    sums = {axis: matrix.sum(axis=axis, keepdims=True) for axis in (1, 0)}
    axes = [axis for axis, sum_ in sums.items() if np.allclose(sum_, 1, rtol=0, atol=_TOLERANCE)]
    if not axes or (matrix < 0).any():
        raise NetworkError(
            "the matrix has no steady state: its entries must not be negative, and its rows or columns "
            "must sum to one"
        )
    matrix /= sums[axes[0]]
    if np.linalg.matrix_rank(matrix - np.eye(len(matrix))) < len(matrix) - 1:
        raise NetworkError("the matrix has more than one steady state: its graph falls into parts")
    return torch.from_numpy(stationary(matrix)).float()
