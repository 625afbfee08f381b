"""What the sites know of each other's vectors: p_j in the gossip step."""

from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import override

from flaremesh.gossip.encodings import Encoding, Exact
from flaremesh.gossip.mixing import Blocks, Span, Workspace, entries_of, section


class Publication(Protocol):
    """One of the vectors that sites tell each other in every iteration, seen from one of them.

    Its parts are published, and asked for, once an iteration each; blocks count from the start of a part.
    Who asks for a part once more says so by ``again``.

    Attributes:
        copies: what is kept between iterations, (d,) each, by the site whose vector it is.
    """

    copies: dict[str, Tensor]

    def publish(self, vector: Tensor, span: Span, work: Workspace) -> Tensor:
        """The bytes uint8 that tell the out-neighbours of a part of ``vector`` (d,)."""

    def own(self, span: Span, again: bool = False) -> Blocks:
        """What they know of the part once they have read these bytes."""

    def of(self, peer: str, data: Tensor, span: Span, again: bool = False) -> Blocks:
        """What is known of the part of the vector of ``peer``, which sent ``data``."""


class Values(Publication):
    """p_j = Q(x_j): no message depends on an earlier one.

    Args:
        encoding: Q.
    """

    def __init__(self, encoding: Encoding):
        self._encoding = encoding
        self._sent: dict[Span, Tensor] = {}
        self.copies = {}

    @override
    def publish(self, vector: Tensor, span: Span, work: Workspace) -> Tensor:
        part = section(vector, *span)
        data = self._encoding.encode(entries_of(part), part.numel(), work)
        self._sent[span] = part if isinstance(self._encoding, Exact) else data
        return data

    @override
    def own(self, span: Span, again: bool = False) -> Blocks:
        sent = self._sent[span]
        return entries_of(sent) if isinstance(self._encoding, Exact) else self.of(_OWN, sent, span)

    @override
    def of(self, peer: str, data: Tensor, span: Span, again: bool = False) -> Blocks:
        start, stop = span
        return self._encoding.decode(data, stop - start)


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
        self._sent: dict[Span, Tensor] = {}
        self.copies = {}

    @override
    def publish(self, vector: Tensor, span: Span, work: Workspace) -> Tensor:
        self._vector = vector
        part, copy = section(vector, *span), section(self._copy(_OWN), *span)

        def change(start: int, stop: int, scratch: Tensor) -> Tensor:
            return torch.sub(part[start:stop], copy[start:stop], out=scratch[: stop - start])

        self._sent[span] = data = self._encoding.encode(change, part.numel(), work)
        return data

    @override
    def own(self, span: Span, again: bool = False) -> Blocks:
        return self.of(_OWN, self._sent[span], span, again)

    @override
    def of(self, peer: str, data: Tensor, span: Span, again: bool = False) -> Blocks:
        copy = section(self._copy(peer), *span)
        if again:
            return entries_of(copy)  # the change is in it
        change = self._encoding.decode(data, copy.numel())
        return lambda start, stop, scratch: copy[start:stop].add_(change(start, stop, scratch))

    def _copy(self, peer: str) -> Tensor:
        if peer not in self.copies:
            self.copies[peer] = torch.zeros_like(self._vector)
        return self.copies[peer]


_OWN = ""  # no site is called that
