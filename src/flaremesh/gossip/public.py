"""What the sites know of each other's vectors: p_j in the gossip step."""

from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import override

from flaremesh.gossip.encodings import Encoding, Exact
from flaremesh.gossip.mixing import Blocks, Workspace, entries_of


class Publication(Protocol):
    """One of the vectors that sites tell each other in every iteration, seen from one of them.

    Attributes:
        copies: what is kept between iterations, (d,) each, by the site whose vector it is.
    """

    copies: dict[str, Tensor]

    def publish(self, vector: Tensor, work: Workspace) -> Tensor:
        """The bytes uint8 that tell the out-neighbours of ``vector`` (d,)."""

    def own(self) -> Blocks:
        """What they know of it once they have read these bytes; called once an iteration."""

    def of(self, peer: str, data: Tensor) -> Blocks:
        """What is known of the vector of ``peer``, which sent ``data``; called once an iteration."""


class Values(Publication):
    """p_j = Q(x_j): no message depends on an earlier one.

    Args:
        encoding: Q.
    """

    def __init__(self, encoding: Encoding):
        self._encoding = encoding
        self.copies = {}

    @override
    def publish(self, vector: Tensor, work: Workspace) -> Tensor:
        self._vector, self._blocks = vector, entries_of(vector)
        self._sent = self._encoding.encode(self._blocks, work)
        return self._sent

    @override
    def own(self) -> Blocks:
        if isinstance(self._encoding, Exact):
            return self._blocks
        return self._encoding.decode(self._sent, self._vector.numel())

    @override
    def of(self, peer: str, data: Tensor) -> Blocks:
        return self._encoding.decode(data, self._vector.numel())


class PublicCopies(Publication):
    """p_j = x̂_j with x̂_j⁺ = x̂_j + C(x_j − x̂_j), x̂_j⁰ = 0: CHOCO-Gossip.

    Koloskova, Stich and Jaggi 2019, arXiv 1902.00340, algorithm 1. Every site keeps public copies of its own
    and its in-neighbours' vectors, and sends the compressed difference to its own. What the compressor drops
    stays in the difference, so that the error vanishes as the sites agree. All copies of a vector are made
    from the same bytes by the same operations, so that rounding cannot drive them apart.

    Args:
        encoding: C.
    """

    def __init__(self, encoding: Encoding):
        self._encoding = encoding
        self.copies = {}

    @override
    def publish(self, vector: Tensor, work: Workspace) -> Tensor:
        self._vector = vector
        copy = self._copy(_OWN)

        def change(start: int, stop: int, scratch: Tensor) -> Tensor:
            return torch.sub(vector[start:stop], copy[start:stop], out=scratch[: stop - start])

        self._sent = self._encoding.encode(change, work)
        return self._sent

    @override
    def own(self) -> Blocks:
        return self.of(_OWN, self._sent)

    @override
    def of(self, peer: str, data: Tensor) -> Blocks:
        copy, change = self._copy(peer), self._encoding.decode(data, self._vector.numel())
        return lambda start, stop, scratch: copy[start:stop].add_(change(start, stop, scratch))

    def _copy(self, peer: str) -> Tensor:
        if peer not in self.copies:
            self.copies[peer] = torch.zeros_like(self._vector)
        return self.copies[peer]


_OWN = ""  # no site is called that
