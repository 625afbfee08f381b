"""The gossip step x_i⁺ = x_i + γ Σ_j (w_ij − δ_ij) p_j, where p_j is what the sites know of x_j.

With p_j = x_j and γ = 1 this is X⁺ = WX. With any other p it still keeps Σ_i x_i, because the columns of W
sum to one and those of W − I to zero.

Vectors are worked on in blocks that stay in the cache, so that memory is read once and written once.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

BLOCK = 1 << 18
"""Entries of a block on the CPU: smaller ones pay for more calls, larger ones leave the cache."""

Blocks: TypeAlias = Callable[[int, int, Tensor], Tensor]
"""(start, stop, scratch) -> entries of a vector: a view of memory that nobody writes, or computed in scratch.

The blocks of a vector are asked for once each, in ascending order; scratch has at least their length.
"""

Take: TypeAlias = Callable[[int, torch.dtype], Tensor]
"""(length, dtype) -> uninitialised memory (length,) on the device of the vectors."""


class Term(NamedTuple):
    """One site's part in the sum: its weight w_ij − δ_ij, and what is known of its vector."""

    weight: float
    blocks: Blocks


class Workspace:
    """What it takes to go block by block through vectors of one length, dtype and device.

    Args:
        like: such a vector (d,).
        take: where the memory of results comes from.

    Attributes:
        length: d.
        spans: (start, stop) of the blocks; one on a GPU, where a call costs more than memory.
        scratch: memory for two blocks, used by one function at a time.
        norm_dtype: of norms; half precision would overflow at 65504, and add nothing to some thousands.
        take: where the memory of results comes from.
    """

    def __init__(self, like: Tensor, take: Take):
        self.length = like.numel()
        size = self.length if like.is_cuda else BLOCK
        self.spans = [(start, min(start + size, self.length)) for start in range(0, self.length, size)]
        longest = min(size, self.length)
        self.scratch = like.new_empty(longest), like.new_empty(longest)
        self.norm_dtype = torch.promote_types(like.dtype, torch.float32)
        self.take = take


def mix(own: Tensor, terms: Sequence[Term], step: float, work: Workspace) -> tuple[Tensor, Tensor | float]:
    """``own`` (d,) moved by ``step`` times the sum of ``terms``, and the 2-norm of that sum.

    The vector is fresh. The norm is a 0-d tensor on a GPU, so that nothing waits for it here.

    Args:
        own: x_i.
        terms: one or more; the weight of the first is not 0, unless it is the only one.
        step: γ.
        work: for vectors like ``own``.
    """
    # the sum is computed divided by the first weight, which saves a pass that would only multiply
    (lead, first), *others = terms
    mixed = work.take(work.length, own.dtype)
    norms = []
    for start, stop in work.spans:
        scratch, spare = work.scratch
        if stop - start < scratch.numel():
            scratch = scratch[: stop - start]
        total = first(start, stop, scratch)
        for weight, blocks in others:
            total = torch.add(total, blocks(start, stop, spare), alpha=weight / lead, out=scratch)
        norms.append(torch.linalg.vector_norm(total, dtype=work.norm_dtype))
        torch.add(section(own, start, stop), total, alpha=step * lead, out=section(mixed, start, stop))
    norm = norms[0] if own.is_cuda else math.hypot(*map(float, norms))
    return mixed, abs(lead) * norm


def entries_of(vector: Tensor) -> Blocks:
    """The blocks of a vector, as views of it."""
    return lambda start, stop, scratch: section(vector, start, stop)


def section(vector: Tensor, start: int, stop: int) -> Tensor:
    """Entries ``start`` to ``stop``; the vector itself, without a new tensor, if these are all."""
    return vector if stop - start == vector.numel() else vector[start:stop]
