"""Masked start: no site sends its gradient alone when a run starts, and sums over all sites stay.

Each pair of neighbours draws a vector from its secret, which one of the two adds and the other one takes
away: v_ij = −v_ji. Entries are whole multiples of a power of two, and so is what they are added to. So sums
are exact, and no digit below the masks' last one is left to be read.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flaremesh.algorithms import Algorithm, Masked
from flaremesh.privacy.pairs import Keystream
from flaremesh.topology.schema import Privacy

_LABEL: Final = "masked start"
_ROOM: Final = 4
"""Bits of a significand that are left for sums: of the masks of up to 16 neighbours, and more gradients."""

_DRAWN: Final = 1 << 20  # numbers at a time


def masked(algorithm: Algorithm[Any], privacy: Privacy) -> Masked | None:
    """What a run masks; None where its algorithm relies on no sum, or nothing is to be masked."""
    declared = getattr(type(algorithm), "masked", None)
    return declared if privacy.masked_start and isinstance(declared, Masked) else None


def masks_of(
    algorithm: Algorithm[Any], privacy: Privacy, site: str, secrets: Mapping[str, bytes]
) -> "Masks | None":
    """What hides a site's share in a run; None where nothing is masked, or nobody shares a secret."""
    declared = masked(algorithm, privacy)
    if declared is None or not secrets:
        return None
    factor = getattr(algorithm, declared.factor) if declared.factor else 1.0
    return Masks(site, secrets, privacy.mask_scale * factor, declared.field)


class Masks:
    """The masks of a site, one of each neighbour.

    Args:
        site: its name.
        secrets: by neighbour, what the two share in this attempt at the run.
        scale: no entry of a mask is greater; rounded down to a power of two.
        field: of an algorithm's state (d,), which they hide.
    """

    def __init__(self, site: str, secrets: Mapping[str, bytes], scale: float, field: str):
        self.field = field
        self._drawn = [(1 if site < peer else -1, secrets[peer]) for peer in sorted(secrets)]
        self._exponent = math.frexp(scale)[1] - 1

    def grid(self, dtype: torch.dtype) -> float:
        """What all entries are whole multiples of, with vectors of a dtype."""
        return 2.0 ** (self._exponent - self._bits(dtype))

    def sum(self, like: Tensor) -> Tensor:
        """The sum of the masks (d,), of the dtype and device of ``like`` (d,)."""
        bits, streams = self._bits(like.dtype), [(sign, Keystream(key, _LABEL)) for sign, key in self._drawn]
        total = np.zeros(like.numel(), np.int64)
        for start in range(0, len(total), _DRAWN):
            part = total[start : start + _DRAWN]
            for sign, stream in streams:
                part += sign * _centred(stream.integers(len(part)), bits)
        return torch.from_numpy(total * self.grid(like.dtype)).to(like)

    def hide(self, state: Any) -> Any:
        """A state whose field is masked.

        What else of the state is the same vector is rounded as it is, so that differences between the two,
        on which equations rely, are those of the masks alone.
        """
        before: Tensor = getattr(state, self.field)
        grid = self.grid(before.dtype)
        rounded = before.div(grid).round_().mul_(grid)
        kept = type(state)(*(rounded if value is before else value for value in state))
        return kept._replace(**{self.field: rounded + self.sum(before)})

    def _bits(self, dtype: torch.dtype) -> int:
        return max(1, round(-math.log2(torch.finfo(dtype).eps)) - _ROOM)


def _centred(numbers: NDArray[np.uint64], bits: int) -> NDArray[np.int64]:
    """Evenly distributed from −2^bits to 2^bits."""
    return (numbers >> np.uint64(63 - bits)).astype(np.int64) - (1 << bits)
