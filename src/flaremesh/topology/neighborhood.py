"""One site's part of a mixing matrix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from operator import or_

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
        partners: where mixing is secure aggregation, for each out-neighbour those of its in-neighbours with
            which this site shares masks; see `with_partners`.
    """

    site: str
    self_weight: float
    in_weights: Mapping[str, float]
    out: tuple[str, ...]
    partners: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def averaging(self) -> "Neighborhood":
        """The same with one weight for the site and each of its in-neighbours: a row that sums to one."""
        share = 1 / (1 + len(self.in_weights))
        return Neighborhood(self.site, share, dict.fromkeys(self.in_weights, share), self.out)


def with_partners(
    schedules: Mapping[str, Sequence[Neighborhood]],
) -> dict[str, list[Neighborhood]]:
    """The neighbourhoods of a graph that does not change, with who shares masks with whom.

    Args:
        schedules: each site's, of one phase.
    """
    hoods = {site: hood for site, (hood,) in schedules.items()}
    return {
        site: [replace(hood, partners={user: _partners(hood, hoods[user]) for user in hood.out})]
        for site, hood in hoods.items()
    }


def _partners(hood: Neighborhood, user: Neighborhood) -> tuple[str, ...]:
    """Those in-neighbours of ``user`` that are neighbours of a site both ways."""
    return tuple(peer for peer in user.in_weights if peer in hood.in_weights and peer in hood.out)


def hops(schedules: Mapping[str, Sequence[Neighborhood]]) -> int | None:
    """The most edges, of all phases, on the way from one site to another; None where there is no way.

    Args:
        schedules: each site's neighbourhood of each phase.
    """
    everyone = (1 << len(schedules)) - 1
    heard = {site: 1 << number for number, site in enumerate(schedules)}
    sources = {
        site: {source for hood in schedule for source in hood.in_weights}
        for site, schedule in schedules.items()
    }
    rounds = 0
    while any(known != everyone for known in heard.values()):
        now = {site: reduce(or_, (heard[peer] for peer in sources[site]), heard[site]) for site in heard}
        if now == heard:
            return None
        heard, rounds = now, rounds + 1
    return rounds


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
