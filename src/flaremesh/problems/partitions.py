"""How the samples of an experiment are divided between its sites: each belongs to exactly one."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flaremesh.problems.protocol import SiteContext

Labels: TypeAlias = NDArray[np.int64]
"""Classes of the samples, (m,)."""

Shares: TypeAlias = list[NDArray[np.int64]]
"""Positions of the samples of each site."""

_DRAWS: Final = 1000  # until no site goes without


def partition(
    labels: Labels, sites: int, kind: str = "classes", *, seed: int = 0, **parameters: Any
) -> Shares:
    """Divide samples between sites; the same arguments give the same shares everywhere.

    =============  ====================================================================================
    kind           a site's share
    =============  ====================================================================================
    ``iid``        drawn at random, all of one size
    ``shards``     ``shards`` (2) random pieces of the samples in the order of their labels
                   (McMahan et al. 2017, section 3)
    ``dirichlet``  of each class a part from Dirichlet(``alpha``) over the sites, 0.5 by default: the
                   smaller, the more unlike (Hsu, Qi and Brown 2019)
    ``quantity``   drawn at random, of a size from Dirichlet(``alpha``)
    ``classes``    two or three consecutive classes of ten, without chance; fewer than four sites see
                   more
    =============  ====================================================================================

    Args:
        labels: of all samples.
        sites: how many there are.
        kind: as above.
        seed: of what is random.
        parameters: of the kind.

    Raises:
        ValueError: an argument is not what it must be, or a site would have no sample.
    """
    try:
        divide = _KINDS[kind]
    except KeyError:
        raise ValueError(f"no partition is of that kind; there are {', '.join(_KINDS)}") from None
    random = np.random.default_rng(seed)
    try:
        signature(divide).bind(labels, sites, random, **parameters)
    except TypeError:
        raise ValueError(f"a partition of the kind {kind} has no such parameter as one of these") from None
    shares = divide(labels, sites, random, **parameters)
    if not all(map(len, shares)):
        raise ValueError(f"{len(labels)} samples are too few for {sites} sites")
    return [np.sort(share) for share in shares]


def share_of(site: SiteContext, labels: Labels, how: Mapping[str, Any] | None) -> NDArray[np.int64]:
    """A site's share.

    Args:
        site: the site.
        labels: of all samples.
        how: the arguments of ``partition`` after the number of sites; its seed is else the run's.

    Raises:
        ValueError: as in ``partition``.
    """
    return partition(labels, site.sites, **{"seed": site.seed % 2**64} | dict(how or {}))[site.index]


def classes_of(index: int, sites: int, classes: int = 10) -> list[int]:
    """The consecutive classes that site ``index`` of ``sites`` sees in a partition by classes.

    With ten classes and four or more sites that is two or three each, and together all ten; fewer sites must
    see more. Beyond five sites, classes are shared.
    """
    first = index * classes // sites
    last = max((index + 1) * classes // sites, first + 2)
    return [label % classes for label in range(first, last)]


def _iid(labels: Labels, sites: int, random: np.random.Generator) -> Shares:
    return np.array_split(random.permutation(len(labels)), sites)


def _shards(labels: Labels, sites: int, random: np.random.Generator, shards: int = 2) -> Shares:
    if type(shards) is not int or shards < 1:
        raise ValueError("shards must be a whole number from 1 on")
    pieces = np.array_split(np.argsort(labels, kind="stable"), sites * shards)
    dealt = random.permutation(len(pieces)).reshape(sites, shards)
    return [np.concatenate([pieces[piece] for piece in hand]) for hand in dealt]


def _dirichlet(labels: Labels, sites: int, random: np.random.Generator, alpha: float = 0.5) -> Shares:
    _require_positive(alpha)

    def drawn() -> Shares:
        shares: Shares = [np.empty(0, dtype=np.int64) for _ in range(sites)]
        for label in np.unique(labels):
            own = random.permutation(np.flatnonzero(labels == label))
            parts = _cut(own, random.dirichlet([alpha] * sites))
            shares = [np.concatenate(pair) for pair in zip(shares, parts, strict=True)]
        return shares

    return _complete(drawn)


def _quantity(labels: Labels, sites: int, random: np.random.Generator, alpha: float = 0.5) -> Shares:
    _require_positive(alpha)
    return _complete(lambda: _cut(random.permutation(len(labels)), random.dirichlet([alpha] * sites)))


def _classes(labels: Labels, sites: int, random: np.random.Generator) -> Shares:
    classes = int(labels.max(initial=9)) + 1
    seen = [classes_of(index, sites, classes) for index in range(sites)]
    shares: list[list[NDArray[np.int64]]] = [[] for _ in range(sites)]
    for label in range(classes):
        owners = [index for index in range(sites) if label in seen[index]]
        for place, owner in enumerate(owners):
            shares[owner].append(np.flatnonzero(labels == label)[place :: len(owners)])
    return [np.concatenate(parts) for parts in shares]


_KINDS: Final[Mapping[str, Callable[..., Shares]]] = {
    "iid": _iid,
    "shards": _shards,
    "dirichlet": _dirichlet,
    "quantity": _quantity,
    "classes": _classes,
}


def _cut(samples: NDArray[np.int64], proportions: NDArray[np.float64]) -> Shares:
    """The samples in pieces of these proportions."""
    ends = np.floor(np.cumsum(proportions)[:-1] * len(samples)).astype(np.int64)
    return np.split(samples, ends)


def _complete(draw: Callable[[], Shares]) -> Shares:
    """The first of many draws in which every site has a sample, or the last one."""
    for _ in range(_DRAWS):
        shares = draw()
        if all(map(len, shares)):
            break
    return shares


def _require_positive(alpha: float) -> None:
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < float("inf"):
        raise ValueError("alpha must be positive and finite")
