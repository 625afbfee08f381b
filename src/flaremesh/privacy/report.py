"""What curious sites can find out of each other in a run: what ``flaremesh privacy`` tells."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations, islice
from math import comb
from typing import Final

import networkx as nx
import torch

from flaremesh.algorithms import configured
from flaremesh.privacy.masks import masked
from flaremesh.privacy.observability import Reconstruction, reconstructions
from flaremesh.privacy.transcript import Transcript, agrees_on_values, is_linear, transcript
from flaremesh.topology.mesh import Mesh
from flaremesh.topology.schema import Run

_ROUNDOFF: Final = {
    "exact": 2.0**-24,
    "float32": 2.0**-24,
    "bfloat16": 2.0**-9,
    "float16": 2.0**-12,
    "int8": 2.0**-24,
    "top-k": 2.0**-24,
}
_MOST_EXCHANGES: Final = 40
_MOST_COALITIONS: Final = 500
_ROWS: Final = 40  # for people


@dataclass(frozen=True)
class Exposure:
    """What some sites find out if they put together what they know.

    Attributes:
        curious: the sites.
        found: of each other site, what they find out of it first.
    """

    curious: tuple[str, ...]
    found: tuple[Reconstruction, ...]


@dataclass(frozen=True)
class PrivacyReport:
    """Who can reconstruct what of whom.

    Attributes:
        algorithm: the run's.
        private: what is to be kept: the sites' values, or their gradients.
        bound: why this is no more than a bound, in words; None where it is exact.
        exchanges: so many were looked at.
        roundoff: relative error of what is sent.
        exposures: of each coalition that finds out anything; whoever finds out most comes first.
        coalitions: so many were looked at.
        left_out: how those were chosen, where not all were looked at; None otherwise.
        summed: how many pairs of a single curious site and a site that it finds out remain if messages are
            hidden in sums over neighbours; None where that was not looked at.
        unmasked: whether what sites send first could be masked, and is not.
        noised: whether gradients are those with the noise of a budget, which is then all that is found out.
    """

    algorithm: str
    private: str
    bound: str | None
    exchanges: int
    roundoff: float
    exposures: tuple[Exposure, ...]
    coalitions: int
    left_out: str | None
    summed: int | None
    unmasked: bool
    noised: bool

    @property
    def pairs(self) -> int:
        """Pairs of a coalition and a site that it finds out."""
        return sum(len(exposure.found) for exposure in self.exposures)


def report(run: Run, mesh: Mesh, curious: int = 1, exchanges: int | None = None) -> PrivacyReport:
    """Look at what coalitions of up to so many sites find out.

    Args:
        run: its algorithm, wire and protections.
        mesh: the sites and the mixing matrices.
        curious: sites that may put together what they know.
        exchanges: to look at, at most as many as the run has; default: so many that each site has heard of
            every other one, and of what that was before.

    Raises:
        TypeError, ValueError: the algorithm has other hyper-parameters.
    """
    algorithm = configured(run)
    stages = max(1, len(algorithm.exchanges))
    wanted = exchanges or min(_MOST_EXCHANGES, 2 * _reach(mesh) + 2)
    iterations = min(run.iterations, -(-wanted // stages))
    groups, left_out = _coalitions(mesh, curious)
    roundoff, hidden = _ROUNDOFF[run.wire.encoding], run.privacy.secure_aggregation
    with _one_thread():  # more of them take longer to meet than vectors of this size to compute
        told = transcript(algorithm, mesh.schedules, iterations, masked(algorithm, run.privacy))
        exposures = [
            Exposure(group, tuple(reconstructions(told, group, roundoff=roundoff, summed=hidden)))
            for group in groups
        ]
        pairs_if_summed = None if hidden else _pairs_if_summed(told, mesh, roundoff)
    return PrivacyReport(
        algorithm=run.algorithm,
        private="values" if agrees_on_values(algorithm) else "gradients",
        bound=_bound(run, linear=is_linear(algorithm)),
        exchanges=len(told.sent),
        roundoff=roundoff,
        exposures=tuple(sorted((e for e in exposures if e.found), key=_severity)),
        coalitions=len(groups),
        left_out=left_out,
        summed=pairs_if_summed,
        unmasked=bool(getattr(type(algorithm), "masked", None)) and not run.privacy.masked_start,
        noised=run.privacy.epsilon is not None,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _reach(mesh: Mesh) -> int:
    """The most edges on the way from one site to another, where there is one."""
    reached = nx.all_pairs_shortest_path_length(mesh.graph)
    return max(int(length) for _, lengths in reached for length in lengths.values())


def _coalitions(mesh: Mesh, curious: int) -> tuple[list[tuple[str, ...]], str | None]:
    """Those to look at, and how they were chosen if these are not all."""
    sizes = range(1, min(curious, len(mesh.sites) - 1) + 1)
    if sum(comb(len(mesh.sites), size) for size in sizes) <= _MOST_COALITIONS:
        return [group for size in sizes for group in combinations(mesh.sites, size)], None
    near = (
        group
        for size in sizes
        for site in mesh.sites
        for group in combinations(sorted(mesh.neighbors(site)), size)
    )
    chosen: dict[tuple[str, ...], None] = dict.fromkeys((site,) for site in mesh.sites)
    for group in islice(near, _MOST_COALITIONS):
        chosen[group] = None
    return [*chosen], "sites alone, and neighbours of one site together"


def _pairs_if_summed(told: Transcript, mesh: Mesh, roundoff: float) -> int:
    return sum(len(reconstructions(told, [site], roundoff=roundoff, summed=True)) for site in mesh.sites)


def _severity(exposure: Exposure) -> tuple[int, int, int]:
    return len(exposure.curious), -len(exposure.found), min(found.exchanges for found in exposure.found)


def _bound(run: Run, *, linear: bool) -> str | None:
    if not linear:
        return (
            f"{run.algorithm} is not linear, so that this is what its linear part tells: neighbours see what "
            "they are sent, and may find out more"
        )
    if run.wire.keeps_copies:
        return f"wire: {run.wire.encoding} sends less than what was looked at, so that less may be found out"
    if run.asynchronous:
        return "sites that do not wait mix in another order, and less may be found out"
    return None


def lines(found: PrivacyReport) -> Iterator[tuple[str, str]]:
    """The report in words: names of facts, and facts."""
    yield (
        "private",
        (
            "the value that each site begins with"
            if found.private == "values"
            else "each site's gradients, or the mean of those between two messages"
            + (", with the noise of the budget" if found.noised else "")
        ),
    )
    yield "looked at", _scope(found)
    if found.bound:
        yield "a bound", found.bound
    if not found.exposures:
        yield "found out", "nothing: no coalition determines anything of another site"
    for exposure in found.exposures[:_ROWS]:
        yield " and ".join(exposure.curious), "; ".join(_told(exposure.found, found.private))
    if (rest := len(found.exposures) - _ROWS) > 0:
        yield "", f"and {rest} more coalitions, which --json has"
    yield from _remedies(found)


def _scope(found: PrivacyReport) -> str:
    which = f" ({found.left_out})" if found.left_out else ""
    return (
        f"what {found.coalitions} coalitions{which} are sent in {found.exchanges} exchanges, rounded to "
        f"{found.roundoff:.1e}"
    )


def _told(found: Sequence[Reconstruction], private: str) -> Iterator[str]:
    """What is found out, by the number of exchanges after which it is."""
    for after in sorted({each.exchanges for each in found}):
        sites = [each.unknown.site for each in found if each.exchanges == after]
        what = "value" if private == "values" else "gradients"
        yield f"the {what} of {', '.join(sites)} after {after} {'exchange' if after == 1 else 'exchanges'}"


def _remedies(found: PrivacyReport) -> Iterator[tuple[str, str]]:
    alone = sum(len(each.found) for each in found.exposures if len(each.curious) == 1)
    if found.unmasked:
        yield "to change", "remove masked_start: false; masks hide what a site sends first"
    if found.summed is not None and alone:
        yield (
            "to change",
            f"hiding messages in sums of neighbours that are joined leaves {found.summed} of {alone} pairs "
            "of a curious site and another; edges between a site's neighbours make it hide more",
        )
    if found.private == "gradients" and found.pairs and not found.noised:
        yield "to change", "a budget, {epsilon, delta, clip}, bounds what all of this tells of the data"
