"""Runs in which sites tell each other values, by methods that subclasses may override, instead of vectors."""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from flaremesh.algorithms import Vectors
from flaremesh.gossip import Mixture
from flaremesh.runtime.site_run import SiteRun
from flaremesh.topology.neighborhood import Neighborhood

Exchange: TypeAlias = Callable[[Vectors, int], Mixture]
"""(own vectors, iteration) -> what they and the in-neighbours' are mixed to."""


class RunByValue(SiteRun):
    """A site's loop whose exchange is somebody else's.

    Args:
        exchange: sends, waits and mixes.
        args: those of SiteRun.
    """

    def __init__(self, exchange: Exchange, *args: Any):
        self._exchange = exchange
        super().__init__(*args)

    def _publish(self, iteration: int, hood: Neighborhood, vectors: Vectors) -> None:
        self._vectors = vectors  # nothing travels before the exchange, which is one call

    def _collect(self, iteration: int, hood: Neighborhood) -> Mixture:
        return self._exchange(self._vectors, iteration)


def joined(tensors: Iterable[Tensor]) -> Tensor:
    """A vector (d,) of the entries of all, complex ones as two, in the narrowest dtype that holds them."""
    parts = [_real(tensor).reshape(-1) for tensor in tensors]
    dtype = reduce(torch.promote_types, (part.dtype for part in parts))
    return torch.cat([part.to(dtype) for part in parts])


def flat(values: Iterable[Any], like: Tensor) -> Tensor:
    """Numbers, arrays and tensors joined to a vector like ``like`` (d,).

    Raises ValueError if they are not d numbers, TypeError for what is none.
    """
    vector = torch.cat([_real(_tensor(value, like)).reshape(-1).to(like) for value in [*values, like[:0]]])
    if vector.numel() != like.numel():
        raise ValueError(f"{vector.numel()} numbers where {like.numel()} are expected")
    return vector


def set_all(tensors: Sequence[Tensor], vector: Tensor) -> None:
    """Give the tensors the entries of a vector that `joined` made of such tensors."""
    parts = torch.split(vector, [_real(tensor).numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        _real(tensor).copy_(part.view(_real(tensor).shape))


def _tensor(value: Any, like: Tensor) -> Tensor:
    if isinstance(value, Tensor | np.ndarray):
        return torch.as_tensor(value).detach()
    return torch.as_tensor(value, dtype=like.dtype)


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
