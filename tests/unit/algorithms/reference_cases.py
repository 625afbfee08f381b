"""The reference cases of the tests: matrices W, and least-squares costs whose solution is known."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import networkx as nx
import numpy as np
import torch
from numpy.typing import NDArray

from flaremesh.algorithms import Algorithm
from flaremesh.problems.protocol import Problem, SiteContext
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.simulate import Simulation
from flaremesh.topology.neighborhood import neighborhoods
from flaremesh.topology.schema import Privacy, Wire

Matrix = NDArray[np.float64]
DIMENSION = 5


def ring(n: int = 8) -> Matrix:
    """Metropolis weights: 1/3 for the site and each of its two neighbours."""
    eye = np.eye(n)
    return (eye + np.roll(eye, 1, axis=0) + np.roll(eye, -1, axis=0)) / 3


def random_graph() -> Matrix:
    """Metropolis weights of a connected G(10, 0.4)."""
    graph = nx.gnp_random_graph(10, 0.4, seed=3)
    assert nx.is_connected(graph)
    w = np.zeros((10, 10))
    for i, j in graph.edges:
        w[i, j] = w[j, i] = 1 / (1 + max(graph.degree[i], graph.degree[j]))
    return w + np.diag(1 - w.sum(axis=1))


def directed_ring_with_chords() -> Matrix:
    """Column stochastic: each of 8 sites divides its value equally between itself and its out-neighbours."""
    edges = [(j, (j + 1) % 8) for j in range(8)] + [(0, 3), (2, 6), (5, 1)]
    p = np.eye(8)
    for j, i in edges:
        p[i, j] = 1
    return p / p.sum(axis=0)


def one_peer_exponential(rounds: int) -> list[Matrix]:
    """In round τ each of 2^rounds sites averages with the one 2^τ places before it."""
    eye = np.eye(2**rounds)
    return [(eye + np.roll(eye, 2**tau, axis=0)) / 2 for tau in range(rounds)]


def star_with_equal_rows() -> Matrix:
    """Row stochastic only: every site averages its closed neighbourhood, which favours the centre."""
    a = np.eye(8)
    a[0, :] = a[:, 0] = 1
    return a / a.sum(axis=1, keepdims=True)


def stationary_distribution(w: Matrix) -> Matrix:
    """π with πᵀW = πᵀ, summing to one."""
    values, vectors = np.linalg.eig(w.T)
    pi = np.real(vectors[:, np.argmax(np.real(values))])
    return pi / pi.sum()


def contraction(w: Matrix) -> float:
    """ρ = ‖W − J‖₂."""
    return float(np.linalg.norm(w - 1 / len(w), 2))


def second_eigenvalue(w: Matrix) -> float:
    """The second greatest modulus of the eigenvalues of W; ρ if W is symmetric."""
    return float(np.sort(np.abs(np.linalg.eigvals(w)))[-2])


class LeastSquares:
    """f_i(x) = ½‖A_i x − b_i‖² with A_i (10, d); the first argument makes it the problem of one site.

    It starts at zero, or ``scattered`` at a point of the site's own.
    """

    def __init__(
        self,
        site: SiteContext,
        dimension: int = DIMENSION,
        dtype: torch.dtype = torch.float64,
        *,
        scattered: bool = False,
    ):
        self._a, self._b = (part.to(dtype) for part in _data(site.index, dimension))
        start = np.random.default_rng(site.index).normal(size=dimension) * scattered
        self._start = torch.from_numpy(start).to(dtype)

    def initial(self) -> torch.Tensor:
        return self._start.clone()

    def loss_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        residual = self._a @ x - self._b
        return 0.5 * residual.dot(residual), self._a.T @ residual

    def evaluate(self, x: torch.Tensor) -> dict[str, float]:
        return {}

    def buffers(self) -> None:
        return None

    def state(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"x": x}


def _data(index: int, dimension: int = DIMENSION) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(index)
    return torch.from_numpy(rng.normal(size=(10, dimension))), torch.from_numpy(3 * rng.normal(size=10))


def gradients_of(problems: Sequence[Problem], x: torch.Tensor) -> torch.Tensor:
    """∇F(X) (n, d): of each problem at its row."""
    return torch.stack([p.loss_and_gradient(row)[1] for p, row in zip(problems, x, strict=True)])


def minimiser(weights: Sequence[float] | Matrix) -> torch.Tensor:
    """The minimiser of Σ_i weights_i f_i."""
    data = [_data(index) for index in range(len(weights))]
    hessian = sum(float(p) * a.T @ a for p, (a, _) in zip(weights, data, strict=True))
    return torch.linalg.solve(
        hessian, sum(float(p) * a.T @ b for p, (a, b) in zip(weights, data, strict=True))
    )


def strong_convexity(n: int) -> float:
    """μ of the average (1/n) Σ_i f_i."""
    hessian = sum(_data(i)[0].T @ _data(i)[0] for i in range(n)) / n
    return float(torch.linalg.eigvalsh(hessian)[0])


def simulation(
    matrices: Matrix | Sequence[Matrix],
    algorithm: Algorithm[Any],
    problem: Callable[[SiteContext], Problem],
    iterations: int,
    wire: Any = "exact",
    paces: Mapping[str, float] | None = None,
) -> Simulation:
    """All sites together; with paces, each at its own, and nobody waits."""
    phases = [matrices] if isinstance(matrices, np.ndarray) else matrices
    sites = [f"site{i}" for i in range(len(phases[0]))]
    hoods = [neighborhoods(sites, w) for w in phases]
    schedules = {site: [hood[site] for hood in hoods] for site in sites}
    unmasked = Privacy(masked_start=False)  # as the equations have it
    options = RunOptions(iterations, wire=Wire.of(wire), asynchronous=paces is not None, privacy=unmasked)
    return Simulation(schedules, algorithm, problem, options, paces=paces or {})


def stacked(run: Simulation, field: str) -> torch.Tensor:
    """One field of the state of all sites, (n, d)."""
    return torch.stack([getattr(site.state, field) for site in run.sites.values()])


def estimates(run: Simulation) -> torch.Tensor:
    """The sites' estimates, (n, d)."""
    return torch.stack([site.estimate for site in run.sites.values()])


def fitted_rate(errors: Sequence[float], first: int, last: int) -> float:
    """Geometric mean of the error's decrease per iteration between two iterations."""
    return float((errors[last] / errors[first]) ** (1 / (last - first)))
