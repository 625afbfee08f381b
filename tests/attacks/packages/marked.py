"""A problem with a marker in every iterate, by which whoever reads one is found out."""

import struct
from random import Random
from typing import Final

import torch
from torch import Tensor

from flaremesh.problems.consensus import Consensus
from flaremesh.problems.protocol import SiteContext

_POWERS: Final = [
    sign * 2.0**exponent
    for sign, exponent in zip(
        Random(18).choices((-1, 1), k=16), Random(18).sample(range(-500, 500), 16), strict=True
    )
]

MARKER: Final = struct.pack("<16d", *_POWERS)
"""128 bytes; powers of two, so that mixing equal ones rounds nothing."""


class Marked(Consensus):
    """Consensus on random values, followed by the marker, over and over, from which no site moves.

    Args:
        site: the site to which the problem belongs.
        dimension: how many values.
        markers: how many markers.
    """

    def __init__(self, site: SiteContext, dimension: int, markers: int):
        super().__init__(site, dimension=dimension)
        self._dimension, self._markers = dimension, MARKER * markers
        self._value = torch.cat([self._value, torch.tensor(_POWERS * markers, dtype=torch.float64)])

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As of consensus; raises ValueError where the iterate has not the marker."""
        if x[self._dimension :].numpy().tobytes() != self._markers:
            raise ValueError("the marker is lost")
        return super().loss_and_gradient(x)
