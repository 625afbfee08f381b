"""What a run with noise tells of a site's data: Rényi differential privacy (Mironov 2017, arXiv 1702.07476).

Each query, a noised gradient, is a Gaussian mechanism: its divergence of order α is α times a factor. The
factors of all queries add up, whatever each was asked after the others, and ε follows from their sum. So
plan, site and ledger calculate with one number, and without torch. What a site says that it has spent is
Opacus' word.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np

from flaremesh.errors import FlaremeshError
from flaremesh.topology.schema import Privacy
from flaremesh.topology.weights import Matrix

ORDERS: Final = (
    *(1 + tenth / 10 for tenth in range(1, 100)),
    *range(11, 64),
    *(1 << n for n in range(6, 15)),
)
"""The orders α among which the best is taken: Opacus' own, and greater ones, for small ε."""

_MOST_COALITIONS = 50_000


class PrivacyError(FlaremeshError):
    """A run cannot keep to its privacy budget, or has come to its end."""

    exit_code = 2


def epsilon(rdp: float, delta: float) -> float:
    """ε of queries whose factors sum to ``rdp``, at δ (Balle et al. 2020, arXiv 1905.09982, theorem 21)."""
    if rdp == 0:
        return 0.0
    bounds: Iterator[float] = (
        rdp * order + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
        for order in ORDERS
    )
    return max(0.0, min(bounds))


def most_rdp(most_epsilon: float, delta: float) -> float:
    """The greatest sum of factors whose ε at δ is ``most_epsilon`` at most.

    Raises:
        PrivacyError: no noise is enough: at no order would less be proved.
    """
    low, high = 0.0, 1.0
    while epsilon(high, delta) <= most_epsilon:
        low, high = high, 2 * high
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if epsilon(middle, delta) <= most_epsilon else (low, middle)
    if low < 1e-12:
        raise PrivacyError(
            f"epsilon {most_epsilon:g} is too small for delta {delta:g}: no noise proves it; write a greater "
            "epsilon or delta"
        )
    return low


def rdp_factor(
    sigma: float, clip: float = 1.0, correlated: float = 0.0, laplacian: Matrix | None = None
) -> float:
    """The factor of one query: 2C² max_i [(σ² I + σ_cor² L)⁻¹]_ii, against whoever sees all noised gradients.

    Two data sets of a site that differ in one unit have gradients that differ by 2C at most. With noise of
    its own alone it is 2C²/σ², with noise that neighbours share that of Allouah et al. 2024,
    arXiv 2405.01031.

    Args:
        sigma: σ, standard deviation of each entry of the noise that every site keeps to itself.
        clip: C.
        correlated: σ_cor, that of the noise which each pair of neighbours adds and takes away.
        laplacian: L (n, n) of the graph whose edges are pairs that share noise nobody else knows.
    """
    if laplacian is None or not correlated:
        return 2 * clip**2 / sigma**2
    covariance = sigma**2 * np.eye(len(laplacian)) + correlated**2 * laplacian
    return float(2 * clip**2 * np.linalg.inv(covariance).diagonal().max())


def laplacian_of(pairs: Matrix) -> Matrix:
    """L = D − A of an undirected graph, whose A (n, n) is symmetric with zeros on its diagonal."""
    laplacian: Matrix = np.diag(pairs.sum(axis=1)) - pairs
    return laplacian


def weakest_factor(sigma: float, correlated: float, pairs: Matrix, curious: int) -> float:
    """The greatest factor (C = 1) against ``curious`` sites, whichever, that put together what they know.

    They know the noise of their own pairs. The rest hides the others: L is that of the graph without them.

    Args:
        sigma, correlated: as in `rdp_factor`.
        pairs: A (n, n).
        curious: so many sites; 0 for somebody who takes part in nothing and sees every message.

    Raises:
        PrivacyError: too many coalitions to look at.
    """
    sites = len(pairs)
    curious = min(curious, sites - 1)
    if math.comb(sites, curious) > _MOST_COALITIONS:
        raise PrivacyError(
            f"{sites} sites have {math.comb(sites, curious)} coalitions of {curious}, too many to look at; "
            "write a smaller privacy.curious, or noise: independent, which holds against all"
        )
    return max(
        rdp_factor(sigma, 1.0, correlated, laplacian_of(np.delete(np.delete(pairs, gone, 0), gone, 1)))
        for gone in (list(coalition) for coalition in combinations(range(sites), curious))
    )


def pairs_of(edges: Sequence[tuple[str, str]], sites: Sequence[str]) -> Matrix:
    """A (n, n): 1 where two sites are neighbours, in either direction."""
    place = {site: index for index, site in enumerate(sites)}
    pairs = np.zeros((len(place), len(place)))
    for one, other in edges:
        if one != other:
            pairs[place[one], place[other]] = pairs[place[other], place[one]] = 1
    return pairs


@dataclass(frozen=True)
class Queries:
    """How often an algorithm asks for a gradient.

    Attributes:
        first: before the first iteration.
        each: in every iteration.
        step: by how much a gradient moves the estimate in the end: the step size, with momentum, an outer
            step and the like counted in; None where that is not proportional to the gradient, as with Adam.
    """

    first: int
    each: int
    step: float | None = None

    def after(self, iterations: int) -> int:
        """How many those are after so many iterations."""
        return self.first + self.each * iterations


@dataclass(frozen=True)
class Budget:
    """What each site of a run may spend, and what it does.

    Attributes:
        epsilon, delta: of the budget.
        sigma: standard deviation of an entry of the noise, in units of the clipping norm of a unit's share.
        rdp: factor of one query.
        queries: how often a gradient is asked for.
        iterations: that fit the budget.
        noise: standard deviation of an entry of the noise that is added to a site's gradient.
        shared_noise: that of the noise that each pair of neighbours adds and takes away; 0 for none.
    """

    epsilon: float
    delta: float
    sigma: float
    rdp: float
    queries: Queries
    iterations: int
    noise: float
    shared_noise: float = 0.0

    @property
    def most(self) -> int:
        """How many queries the budget allows."""
        return self.queries.after(self.iterations)

    def spent(self, queries: int) -> float:
        """ε after so many queries."""
        return epsilon(self.rdp * queries, self.delta)

    def in_words(self) -> str:
        """The budget for people."""
        return f"ε {self.epsilon:g} (δ {self.delta:g})"


def budget_of(
    privacy: Privacy, queries: Queries, iterations: int, pairs: Matrix | None = None
) -> Budget | None:
    """What a run of so many iterations has; None without a budget.

    Args:
        privacy: as in the topology file. Without ``sigma`` it is the least with which all iterations fit.
        queries: of the algorithm.
        iterations: that the run asks for.
        pairs: A (n, n), which noise that is correlated needs.

    Raises:
        PrivacyError: not one iteration fits, or the algorithm asks for no gradient.
    """
    if privacy.epsilon is None or privacy.delta is None or privacy.clip is None:
        return None
    if not queries.each:
        raise PrivacyError(
            "the algorithm asks for no gradient, so noise on gradients hides nothing of what a site brings; "
            "remove run.privacy.epsilon, or run an algorithm that descends"
        )
    allowed = most_rdp(privacy.epsilon, privacy.delta)
    ratio = 0.0
    unit = 2.0  # the factor at σ = 1
    if privacy.noise == "correlated":
        if pairs is None:
            raise PrivacyError("noise: correlated needs the graph, of which nothing is known here")
        ratio = privacy.correlation
        unit = weakest_factor(1.0, ratio, pairs, privacy.curious)
    # a hair more than enough, so that rounding takes no iteration away
    sigma = privacy.sigma or math.sqrt(unit * queries.after(iterations) / allowed) * (1 + 1e-12)
    rdp = unit / sigma**2
    fitting = math.floor((allowed / rdp - queries.first) / queries.each)
    if fitting < 1:
        raise PrivacyError(
            f"with sigma {sigma:g} one iteration spends ε "
            f"{epsilon(rdp * queries.after(1), privacy.delta):.3g}, more than epsilon {privacy.epsilon:g}; "
            "write a greater sigma, or none"
        )
    noise = sigma * privacy.clip / (privacy.examples or 1)
    return Budget(
        privacy.epsilon, privacy.delta, sigma, rdp, queries, min(iterations, fitting), noise, ratio * noise
    )
