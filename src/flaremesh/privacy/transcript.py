"""What an algorithm's messages tell, as linear functions of what each site wants to keep to itself.

The algorithm itself is run, on coefficients in the place of numbers: each entry of a vector is that of one
unknown. So there is no second account of its equations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from flaremesh.algorithms import Algorithm, FixedPoint, Masked, Vectors
from flaremesh.topology.neighborhood import Neighborhood

Schedules: TypeAlias = Mapping[str, Sequence[Neighborhood]]
"""Each site's neighbourhood of each phase."""

_KNOWN = 1
"""Unknowns begin behind the coefficient of the common initial point, which everybody knows."""


class Unknown(NamedTuple):
    """What is private.

    Attributes:
        site: whose it is.
        number: 0 for the site's value, where the algorithm is to agree on the mean of such values; else which
            of the gradients that the site has computed. What it computes between two messages, be it one
            gradient or many local steps, counts as one: its mean.
    """

    site: str
    number: int

    def is_known_to(self, coalition: Collection[str]) -> bool:
        """Whether it is a member's own."""
        return self.site in coalition


class Mask(NamedTuple):
    """What two neighbours share: the first one adds it at the start, and the other one takes it away."""

    first: str
    other: str

    def is_known_to(self, coalition: Collection[str]) -> bool:
        """Whether it is a member's own."""
        return self.first in coalition or self.other in coalition


@dataclass(frozen=True)
class Transcript:
    """The messages of all sites.

    Attributes:
        unknowns: what they are functions of; a mask is as great as what it hides.
        sent: of each exchange, each site's message, (vectors, unknowns).
        schedules: who gets them.
        stages: exchanges of an iteration.
    """

    unknowns: tuple[Unknown | Mask, ...]
    sent: tuple[Mapping[str, Tensor], ...]
    schedules: Schedules
    stages: int

    def hood(self, site: str, exchange: int) -> Neighborhood:
        """A site's neighbourhood in an exchange."""
        schedule = self.schedules[site]
        return schedule[exchange // self.stages % len(schedule)]


class _Oracle:
    """The gradients of one site: a new unknown after each message."""

    def __init__(self, columns: Sequence[int]):
        self._columns = columns
        self._messages = 0
        self.asked: dict[int, int] = {}  # columns and numbers of those that were asked for

    def __call__(self, x: Tensor) -> Tensor:
        column = self._columns[self._messages]
        self.asked.setdefault(column, len(self.asked))
        gradient = torch.zeros_like(x)
        gradient[column] = 1.0
        return gradient

    def sent(self) -> None:
        self._messages += 1


def transcript(
    algorithm: Algorithm[Any], schedules: Schedules, iterations: int, masked: Masked | None = None
) -> Transcript:
    """What all sites send in so many iterations of an algorithm that is linear.

    Args:
        algorithm: as each site runs it.
        schedules: of all sites.
        iterations: from the start.
        masked: of the algorithm's state, if neighbours mask it at the start.
    """
    sites = [*schedules]
    stages = len(algorithm.exchanges)
    each = 2 + iterations * stages  # one is asked for before the first message, and one after the last
    pairs = _pairs(schedules) if masked else []
    beyond = _KNOWN + len(sites) * (1 + each)
    width = beyond + len(pairs)
    oracles, columns = {}, {}
    for place, site in enumerate(sites):
        first = _KNOWN + place * (1 + each)
        columns[site] = first
        oracles[site] = _Oracle(range(first + 1, first + 1 + each))
    states = {
        site: algorithm.init(_initial(algorithm, columns[site], width), oracles[site]) for site in sites
    }
    for column, mask in enumerate(pairs, beyond):
        assert masked, "there are masks"
        for site, sign in ((mask.first, 1.0), (mask.other, -1.0)):
            states[site] = _shifted(states[site], masked, algorithm, column, sign)
    sent: list[Mapping[str, Tensor]] = []
    for iteration in range(iterations):
        hoods = {site: schedule[iteration % len(schedule)] for site, schedule in schedules.items()}
        steps = {site: algorithm.step(states[site], oracles[site]) for site in sites}
        messages = {site: next(step) for site, step in steps.items()}
        for exchange in algorithm.exchanges:
            sent.append(
                {site: torch.stack(message[: exchange.vectors]) for site, message in messages.items()}
            )
            for oracle in oracles.values():
                oracle.sent()
            received = dict(messages)
            for site, step in steps.items():
                mixed = _mixture(hoods[site], received, exchange.averaged)
                if (message := _resumed(step, mixed, states, site)) is not None:
                    messages[site] = message
    used: dict[int, Unknown | Mask] = {
        column: Unknown(site, number) for site in sites for column, number in oracles[site].asked.items()
    }
    used |= dict(enumerate(pairs, beyond))
    if agrees_on_values(algorithm):
        used |= {columns[site]: Unknown(site, 0) for site in sites}
    kept = sorted(used)
    return Transcript(
        tuple(used[column] for column in kept),
        tuple({site: rows[:, kept] for site, rows in told.items()} for told in sent),
        schedules,
        stages,
    )


def _pairs(schedules: Schedules) -> list[Mask]:
    edges = {
        Mask(*sorted((hood.site, peer)))
        for schedule in schedules.values()
        for hood in schedule
        for peer in hood.in_weights
    }
    return sorted(edges)


def _shifted(state: Any, masked: Masked, algorithm: Algorithm[Any], column: int, sign: float) -> Any:
    factor = getattr(algorithm, masked.factor) if masked.factor else 1.0
    mask = torch.zeros_like(getattr(state, masked.field))
    mask[column] = sign * factor
    return state._replace(**{masked.field: getattr(state, masked.field) + mask})


def agrees_on_values(algorithm: Algorithm[Any]) -> bool:
    """Whether what a site begins with is its own, and not the point from which all begin."""
    return getattr(algorithm, "fixed_point", None) is FixedPoint.MEAN


def is_linear(algorithm: Algorithm[Any]) -> bool:
    """Whether messages are linear functions of gradients and initial points: tried on random ones."""
    one, other = (
        torch.randn(_TRIED, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
        for n in (1, 2)
    )
    try:
        told = [_alone(algorithm, inputs) for inputs in (one, other, one + other)]
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError):
        return False
    return torch.allclose(told[0] + told[1], told[2], rtol=1e-9, atol=1e-9)


_TRIED = 8


def _alone(algorithm: Algorithm[Any], inputs: Tensor) -> Tensor:
    """The messages of a site without neighbours, whose initial point and gradients are these (n, d)."""
    initial, *gradients = inputs
    rest = iter(gradients * 200)  # of local steps there may be many
    states = {"": algorithm.init(initial.clone(), lambda x: next(rest).clone())}
    told: list[Tensor] = []
    for _ in range(len(gradients)):
        step = algorithm.step(states[""], lambda x: next(rest).clone())
        message: Vectors | None = next(step)
        while message is not None:
            told += [vector for vector in message if vector.shape == initial.shape]
            message = _resumed(step, _received(message), states, "")
    return torch.stack(told)


def _initial(algorithm: Algorithm[Any], own: int, width: int) -> Tensor:
    x0 = torch.zeros(width, dtype=torch.float64)
    x0[own if agrees_on_values(algorithm) else 0] = 1.0
    return x0


def _resumed(
    step: Generator[Vectors, Callable[[], Vectors], Any],
    mixed: Callable[[], Vectors],
    states: dict[str, Any],
    site: str,
) -> Vectors | None:
    """A site's next message in this iteration; its new state, where there is none."""
    try:
        return step.send(mixed)
    except StopIteration as end:
        states[site] = end.value
        return None


def _received(message: Vectors) -> Callable[[], Vectors]:
    return lambda: tuple(vector.clone() for vector in message)


def _mixture(hood: Neighborhood, messages: Mapping[str, Vectors], averaged: int) -> Callable[[], Vectors]:
    def mixed() -> Vectors:
        own = messages[hood.site]
        found = []
        for number, vector in enumerate(own):
            row = hood.averaging if number < averaged else hood
            total = vector * row.self_weight
            for peer, weight in row.in_weights.items():
                total = total.add(messages[peer][number], alpha=weight)
            found.append(total)
        return tuple(found)

    return mixed
