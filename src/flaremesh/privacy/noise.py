"""Clipped and noised gradients: all that leaves a site of its data in a run with a privacy budget."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from secrets import token_bytes
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flaremesh.errors import FlaremeshError
from flaremesh.privacy.accounting import ORDERS, Budget, PrivacyError
from flaremesh.privacy.pairs import SECRET_BYTES, normal

Query: TypeAlias = Callable[[Tensor], Tensor]
"""x (d,) -> a vector (d,) that one unit of the site's data changes by a bounded norm."""


class MissingAccountant(FlaremeshError):
    """Opacus, which accounts for what a site spends, is not installed."""


def clipped(gradient: Tensor, clip: float) -> Tensor:
    """The gradient (d,), scaled down to the 2-norm ``clip`` where it is longer."""
    return gradient * torch.clamp(clip / torch.linalg.vector_norm(gradient), max=1.0).nan_to_num(1.0)


@dataclass(frozen=True)
class Secrets:
    """From which noise is made.

    Attributes:
        own: the site's own, which nobody else may know.
        shared: by neighbour, that of the two.
        pairs: A (n, n) of the graph whose edges are such pairs; None where nothing is known of it.
    """

    own: bytes = field(default_factory=lambda: token_bytes(SECRET_BYTES))
    shared: Mapping[str, bytes] = field(default_factory=dict)
    pairs: NDArray[np.float64] | None = None


class NoisedGradient:
    """The gradient of a site with noise: its own, and that which it shares with neighbours.

    A neighbour of a pair adds what the other one takes away, so that over all sites this noise sums to zero.

    Args:
        site: its name.
        query: the gradient, clipped.
        budget: what it may spend.
        secrets: from which the noise is made.

    Attributes:
        budget: what it may spend.
        queries: how many were made.

    Raises:
        MissingAccountant: Opacus is not there.
    """

    def __init__(self, site: str, query: Query, budget: Budget, secrets: Secrets):
        self._site, self._query, self.budget, self._secret = site, query, budget, secrets.own
        shared = secrets.shared if budget.shared_noise else {}
        self._shared = [(1 if site < peer else -1, known) for peer, known in shared.items()]
        self._multiplier = (2 * budget.rdp) ** -0.5
        self._accountant = _accountant()
        self.queries = 0

    def __call__(self, x: Tensor) -> Tensor:
        """The noised gradient at x (d,).

        Raises:
            PrivacyError: the budget is spent.
        """
        if self.queries == self.budget.most:
            raise PrivacyError(
                f"{self._site} has spent its privacy budget, {self.budget.in_words()}: "
                f"{self.queries} gradients"
            )
        number = self.queries
        self.queries += 1
        gradient = self._query(x).add(normal(self._secret, f"own {number}", x), alpha=self.budget.noise)
        for sign, known in self._shared:
            gradient.add_(normal(known, f"gradient {number}", x), alpha=sign * self.budget.shared_noise)
        return gradient

    def loss_and_gradient(self, x: Tensor) -> tuple[None, Tensor]:
        """The same, without the loss: no noise would hide what that tells."""
        return None, self(x)

    @property
    def epsilon(self) -> float:
        """ε that is spent, as Opacus' accountant says it."""
        accountant = self._accountant()
        accountant.history = [(self._multiplier, 1.0, self.queries)] if self.queries else []
        with warnings.catch_warnings():
            # of the greatest order being the best one, as it is at the start
            warnings.simplefilter("ignore", UserWarning)
            return float(accountant.get_epsilon(self.budget.delta, alphas=ORDERS))

    @property
    def rdp(self) -> float:
        """Rényi divergence of order α that is spent, divided by α."""
        return self.budget.rdp * self.queries

    @property
    def most_epsilon(self) -> float:
        """ε that may be spent."""
        return self.budget.epsilon


def _accountant() -> Any:
    try:
        from opacus.accountants import RDPAccountant
    except ImportError as error:
        raise MissingAccountant(
            "a run with a privacy budget needs Opacus: install flaremesh[privacy] at every site"
        ) from error
    return RDPAccountant
