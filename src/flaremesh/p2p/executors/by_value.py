"""Runs in which sites exchange values, by methods that subclasses may override, instead of vectors."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from flaremesh.algorithms import Vectors
from flaremesh.gossip import Mixture
from flaremesh.links.link import MAX_MESSAGE_BYTES
from flaremesh.problems.flat import parts_of, real
from flaremesh.runtime.exchanges import Exchanges
from flaremesh.runtime.site_run import SiteRun
from flaremesh.topology.neighborhood import Neighborhood


class RunByValue(SiteRun):
    """A site's loop that leaves each exchange to one function.

    Args:
        exchange: (own vectors, iteration) -> what they and the in-neighbours' are mixed to: sends and waits.
        args: those of SiteRun.
    """

    def __init__(self, exchange: Callable[[Vectors, int], Mixture], *args: Any):
        self._exchange = exchange
        super().__init__(*args)

    @override
    def _make_exchanges(self, *args: Any) -> Exchanges:
        return _ByValue(self._exchange, *args)


class _ByValue(Exchanges):
    """Exchanges that one function makes, which sends and waits."""

    def __init__(self, exchange: Callable[[Vectors, int], Mixture], *args: Any):
        self._exchange = exchange
        super().__init__(*args)

    @override
    def _expect(self, length: int) -> None:
        self._link.expect(MAX_MESSAGE_BYTES)  # values have any length

    @override
    def _send(self, iteration: int, stage: int, vectors: Vectors) -> None:
        self._vectors = vectors  # sent later, by the function

    @override
    def _mixture(self, hood: Neighborhood, iteration: int, stage: int) -> Mixture:
        started = time.perf_counter()
        mixture = self._exchange(self._vectors, iteration)
        self._waited = time.perf_counter() - started
        return mixture


def flat(values: Iterable[Any], like: Tensor) -> Tensor:
    """Numbers, arrays and tensors joined to a vector like ``like`` (d,).

    Raises:
        ValueError: they are not d numbers.
        TypeError: something is no number.
    """
    vector = torch.cat([real(_tensor(value, like)).reshape(-1).to(like) for value in [*values, like[:0]]])
    if vector.numel() != like.numel():
        raise ValueError(f"{vector.numel()} numbers where {like.numel()} are expected")
    return vector


def set_all(tensors: Sequence[Tensor], vector: Tensor) -> None:
    """Give the tensors the entries of a vector that `joined` made of such tensors."""
    for tensor, part in zip(tensors, parts_of(vector, tensors), strict=True):
        real(tensor).copy_(part)


def _tensor(value: Any, like: Tensor) -> Tensor:
    if isinstance(value, Tensor | np.ndarray):
        return torch.as_tensor(value).detach()
    return torch.as_tensor(value, dtype=like.dtype)
