"""The Base-(k+1) graph: a cycle of sparse graphs that averages exactly, over any number of sites.

Takezawa et al. 2023, arXiv 2305.11420. A phase maps pairs of sites, which use each other's value, to the
weight with which they do.
"""

from collections.abc import Sequence
from functools import cache
from itertools import chain, combinations, zip_longest
from typing import TypeAlias

Phase: TypeAlias = dict[tuple[int, int], float]


def base_graph(n: int, degree: int) -> list[Phase]:
    """The phases of the Base-(k+1) graph (algorithm 3) over the positions 0, …, n − 1.

    Args:
        n: number of sites.
        degree: k, the most neighbours that a site has in a phase, at least 1.

    Returns:
        At most 2 log_{k+1} n + 2 phases; the product of their symmetric, doubly stochastic matrices is 11ᵀ/n.
    """
    simple = _simple(range(n), degree)
    count = max(d for d in range(1, n + 1) if n % d == 0 and _factors(d, degree) is not None)
    groups = [range(first, first + n // count) for first in range(0, n, n // count)]
    within = _at_once([_simple(group, degree) for group in groups])
    between = _at_once([_hypercube(sites, degree) for sites in zip(*groups, strict=True)])
    return min(simple, within + between, key=len)


def _simple(sites: Sequence[int], degree: int) -> list[Phase]:
    """The Simple Base-(k+1) graph (algorithm 2): a block for each digit of the number of sites.

    All blocks average. Then each in turn trades with all smaller ones, so that these together have the mean
    that all should have, and so has each of the block's parts, which averages again while the others go on.
    """
    if _factors(len(sites), degree) is not None:
        return _hypercube(sites, degree)
    blocks = _blocks(sites, degree + 1)
    wholes = [list(chain(*parts)) for parts in blocks]
    trades: list[list[Phase]] = []
    for turn, parts in enumerate(blocks[:-1]):
        smaller = list(chain(*wholes[turn + 1 :]))
        own = len(wholes[turn])
        weight = own / (len(parts) * (own + len(smaller)))
        trade = {pair: weight for part in parts for pair in zip(part, smaller, strict=False)}
        averaging = _at_once([_hypercube(part, degree) for part in parts])
        trades.append([{}] * turn + [trade, *averaging])
    return _at_once([_hypercube(whole, degree) for whole in wholes]) + _at_once(trades)


def _blocks(sites: Sequence[int], base: int) -> list[list[Sequence[int]]]:
    """The sites in blocks: of a digit a at the power p, the first digit first, a parts of base^p sites."""
    powers = [1]
    while powers[-1] * base <= len(sites):
        powers.append(powers[-1] * base)
    blocks, start = [], 0
    for power in reversed(powers):
        ends = range(start + power, len(sites) + 1, power)
        if ends:
            blocks.append([sites[end - power : end] for end in ends])
            start = ends[-1]
    return blocks


def _hypercube(sites: Sequence[int], degree: int) -> list[Phase]:
    """The hyper-hypercube (algorithm 1): groups of each factor's size average, in one phase per factor."""
    phases, stride = [], 1
    for size in _factors(len(sites), degree) or ():
        firsts = [first for first in range(len(sites)) if first // stride % size == 0]
        groups = [sites[first : first + stride * size : stride] for first in firsts]
        phases.append({pair: 1 / size for group in groups for pair in combinations(group, 2)})
        stride *= size
    return phases


@cache
def _factors(n: int, degree: int) -> tuple[int, ...] | None:
    """The fewest factors of n that are at most k + 1; None if a prime factor is greater."""
    if n == 1:
        return ()
    found = [
        (factor, *rest)
        for factor in range(2, min(n, degree + 1) + 1)
        if n % factor == 0 and (rest := _factors(n // factor, degree)) is not None
    ]
    return min(found, key=len, default=None)


def _at_once(schedules: Sequence[Sequence[Phase]]) -> list[Phase]:
    """Schedules over different sites as one."""
    return [
        dict(chain(*(phase.items() for phase in phases))) for phases in zip_longest(*schedules, fillvalue={})
    ]
