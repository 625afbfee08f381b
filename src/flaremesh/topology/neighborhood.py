"""One site's part of a mixing matrix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Neighborhood:
    """Row ``site`` of W and the sites that use its value.

    Attributes:
        site: name of the site.
        self_weight: w_ii.
        in_weights: w_ij of every in-neighbour j.
        out: names of the out-neighbours, which wait for this site's value.
    """

    site: str
    self_weight: float
    in_weights: Mapping[str, float]
    out: tuple[str, ...]

    @cached_property
    def averaging(self) -> "Neighborhood":
        """The same with one weight for the site and each of its in-neighbours: a row that sums to one."""
        share = 1 / (1 + len(self.in_weights))
        return Neighborhood(self.site, share, dict.fromkeys(self.in_weights, share), self.out)


def neighborhoods(sites: Sequence[str], matrix: NDArray[np.float64]) -> dict[str, Neighborhood]:
    """Split W (n, n) into one Neighborhood per site; an entry of exactly 0 is no edge."""
    return {
        site: Neighborhood(
            site=site,
            self_weight=float(matrix[i, i]),
            in_weights={sites[j]: float(matrix[i, j]) for j in np.flatnonzero(matrix[i]).tolist() if j != i},
            out=tuple(sites[j] for j in np.flatnonzero(matrix[:, i]).tolist() if j != i),
        )
        for i, site in enumerate(sites)
    }
