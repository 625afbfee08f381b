"""The gossip step x_i⁺ = x_i + γ Σ_j (w_ij − δ_ij) p_j, where p_j is what the sites know of x_j.

With p_j = x_j and γ = 1 this is X⁺ = WX. With any other p it still keeps Σ_i x_i, because the columns of W
sum to one and those of W − I to zero.

Vectors are worked on in blocks that stay in the cache, so that memory is read once and written once.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

BLOCK = 1 << 18
"""Entries of a block on the CPU: smaller ones pay for more calls, larger ones leave the cache."""

Blocks: TypeAlias = Callable[[int, int, Tensor], Tensor]
"""(start, stop, scratch) -> entries of a vector: a view of memory that nobody writes, or computed in scratch.

The blocks of a vector are asked for once each, in ascending order; scratch has at least their length.
"""

Span: TypeAlias = tuple[int, int]
"""(start, stop) of entries of a vector."""

Take: TypeAlias = Callable[[int, torch.dtype], Tensor]
"""(length, dtype) -> uninitialised memory (length,) on the device of the vectors."""


class Term(NamedTuple):
    """One site's part in the sum: its weight w_ij − δ_ij, and what is known of its vector."""

    weight: float
    blocks: Blocks


class Workspace:
    """What it takes to go block by block through vectors of one dtype and device.

    Args:
        like: the longest of such vectors (d,).
        take: where the memory of results comes from.

    Attributes:
        scratch: memory for two blocks, used by one function at a time.
        norm_dtype: of norms; half precision would overflow at 65504, and add nothing to some thousands.
        take: where the memory of results comes from.
    """

    def __init__(self, like: Tensor, take: Take):
        length = like.numel()
        self._size = max(1, length) if like.is_cuda else BLOCK
        longest = min(self._size, length)
        self.scratch = like.new_empty(longest), like.new_empty(longest)
        self.norm_dtype = torch.promote_types(like.dtype, torch.float32)
        self.take = take

    def spans(self, length: int) -> Iterator[Span]:
        """The blocks of a vector (length,); one on a GPU, where a call costs more than memory."""
        return ((start, min(start + self._size, length)) for start in range(0, length, self._size))


def mix(
    own: Tensor, terms: Sequence[Term], step: float, work: Workspace, mixed: Tensor
) -> list[Tensor | float]:
    """Write ``own`` (d,) moved by ``step`` times the sum of ``terms`` to ``mixed`` (d,).

    Args:
        own: x_i.
        terms: one or more; the weight of the first is not 0, unless it is the only one.
        step: γ.
        work: for vectors like ``own``.
        mixed: x_i⁺.

    Returns:
        The 2-norm of the sum, divided by the magnitude of the first weight, block by block; on a GPU 0-d
        tensors, so that nothing waits for them here.
    """
    # the sum is computed divided by the first weight, which saves a pass that would only multiply
    (lead, first), *others = terms
    norms: list[Tensor | float] = []
    for start, stop in work.spans(own.numel()):
        scratch, spare = work.scratch
        if stop - start < scratch.numel():
            scratch = scratch[: stop - start]
        total = first(start, stop, scratch)
        for weight, blocks in others:
            total = torch.add(total, blocks(start, stop, spare), alpha=weight / lead, out=scratch)
        norm = torch.linalg.vector_norm(total, dtype=work.norm_dtype)
        norms.append(norm if own.is_cuda else float(norm))
        torch.add(section(own, start, stop), total, alpha=step * lead, out=section(mixed, start, stop))
    return norms


def joined(norms: Sequence[Tensor | float]) -> Tensor | float:
    """The 2-norm of a vector from those of its blocks."""
    if isinstance(norms[0], Tensor):
        return (
            norms[0]
            if len(norms) == 1
            else torch.linalg.vector_norm(torch.stack([*map(torch.as_tensor, norms)]))
        )
    return math.hypot(*norms)


def within(span: Span, length: int) -> Span:
    """What of a span lies in a vector (length,)."""
    start, stop = span
    return min(start, length), min(stop, length)


def entries_of(vector: Tensor) -> Blocks:
    """The blocks of a vector, as views of it."""
    return lambda start, stop, scratch: section(vector, start, stop)


def section(vector: Tensor, start: int, stop: int) -> Tensor:
    """Entries ``start`` to ``stop``; the vector itself, without a new tensor, if these are all."""
    return vector if stop - start == vector.numel() else vector[start:stop]
