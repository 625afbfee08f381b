"""What was measured, and the rows that are made of it."""

import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

FLAREMESH, BFLOAT16 = "flaremesh", "flaremesh, bfloat16"
MET, RELAYED = "flaremesh, met", "flaremesh, relayed"
K_GT = "flaremesh, k-gt"
STOCK, GLOO, TLS = "nvflare.app_opt.p2p", "torch gloo", "bare TLS"
SYSTEMS = (FLAREMESH, BFLOAT16, MET, RELAYED, K_GT, STOCK, GLOO, TLS)

SCALAR, VECTOR, SERVER_SHARE = "scalar consensus", "vectors", "through the server"
CPU, MEMORY, GROWTH = "CPU per GB", "peak memory", "ring, per edge"
SCALAR_CPU = "scalar consensus, CPU"
MEETING_CPU, MEETING_MEMORY = "meeting point, CPU per GB", "meeting point, memory"
TRAINING, LEARNING, HIDDEN = "training to 90 %", "learning to 93 %", "exchange hidden"


class Key(NamedTuple):
    """Names a row.

    Attributes:
        case: what was done.
        sites: size of the mesh.
        floats: length of the vectors, 0 where there is more than one.
        unit: of the figures; less is better unless it is the share that was hidden.
    """

    case: str
    sites: int
    floats: int
    unit: str


Repeats: TypeAlias = dict[int, list[float]]
"""Figures of one system by the number of the repeat; none where it failed."""


@dataclass(frozen=True)
class Figure:
    """One system in one row.

    Attributes:
        median: of the medians of the repeats, None if all failed.
        p95: of all samples of all repeats.
        repeats: that gave figures.
        samples: figures in all repeats.
        failed: repeats that gave none.
    """

    median: float | None
    p95: float | None
    repeats: int
    samples: int
    failed: int


@dataclass(frozen=True)
class Target:
    """What flaremesh is held to in a row."""

    text: str
    value: float
    met: bool


Targets: TypeAlias = Callable[["Key", Mapping[str, Repeats]], Iterable[Target]]


@dataclass(frozen=True)
class Row:
    """A line of links.json; see Key."""

    case: str
    sites: int
    floats: int
    unit: str
    systems: dict[str, Figure]
    targets: list[Target]


class Samples:
    """Figures as they come in.

    Args:
        systems: all that there are, in their order.
        targets: what a row is held to; None for those of the links.
    """

    def __init__(self, systems: Sequence[str] = SYSTEMS, targets: Targets | None = None):
        self._systems, self._targets = systems, targets or _targets
        self._found: defaultdict[Key, dict[str, Repeats]] = defaultdict(dict)

    def add(self, key: Key, system: str, repeat: int, figures: Iterable[float]) -> None:
        """Keep the figures of one repeat; without any it failed."""
        self._found[key].setdefault(system, {})[repeat] = list(figures)

    def rows(self) -> Iterator[Row]:
        """Case by case, in the order in which they came."""
        cases = list(dict.fromkeys(key.case for key in self._found))
        for key in sorted(self._found, key=lambda key: (cases.index(key.case), key.sites, key.floats)):
            systems = self._found[key]
            figures = {system: figure(systems[system]) for system in self._systems if system in systems}
            yield Row(*key, figures, list(self._targets(key, systems)))


def figure(repeats: Repeats) -> Figure:
    """What the repeats of one system come to."""
    medians = [statistics.median(figures) for figures in repeats.values() if figures]
    figures = sorted(each for repeat in repeats.values() for each in repeat)
    return Figure(
        statistics.median(medians) if medians else None,
        figures[math.ceil(0.95 * len(figures)) - 1] if figures else None,
        len(medians),
        len(figures),
        len(repeats) - len(medians),
    )


def ratio(systems: Mapping[str, Repeats], other: str, ours: str = FLAREMESH) -> float | None:
    """How many times longer the other takes: the median of the repeats, in which both took turns."""
    pairs = [
        statistics.median(figures) / statistics.median(systems[ours][repeat])
        for repeat, figures in systems.get(other, {}).items()
        if figures and systems.get(ours, {}).get(repeat)
    ]
    return statistics.median(pairs) if pairs else None


def _targets(key: Key, systems: Mapping[str, Repeats]) -> Iterator[Target]:
    def at_least(text: str, bound: float, value: float | None) -> Iterator[Target]:
        if value is not None:
            yield Target(text, value, value >= bound)

    def at_most(text: str, bound: float, value: float | None) -> Iterator[Target]:
        if value is not None:
            yield Target(text, value, value <= bound)

    ours = figure(systems.get(FLAREMESH, {})).median
    if key.case == SCALAR and key.sites == 2:
        yield from at_most("<= 0.25 ms", 0.25, ours)
        yield from at_least(">= 100x stock", 100.0, ratio(systems, STOCK))
        yield from at_least(">= 1x gloo", 1.0, ratio(systems, GLOO))
    if key.case == SCALAR_CPU and key.sites == 2:
        yield from at_most("<= 1.5x gloo", 1.5, ratio(systems, FLAREMESH, GLOO))
    if key.case == VECTOR and key.floats >= 1_000_000:
        yield from at_least(">= 0.9x bare TLS", 0.9, ratio(systems, TLS))
        yield from at_least("bfloat16 >= 1.6x float32", 1.6, ratio(systems, FLAREMESH, BFLOAT16))
        yield from at_least("met >= 0.8x direct", 0.8, ratio(systems, FLAREMESH, MET))
        yield from at_least("relayed >= 1x stock", 1.0, ratio(systems, STOCK, RELAYED))
    if key.case == CPU:
        yield from at_most("<= 1.1x bare TLS", 1.1, ratio(systems, FLAREMESH, TLS))
    if key.case == MEMORY and key.floats >= 10_000_000:
        yield from at_most("<= 1.3x bare TLS", 1.3, ratio(systems, FLAREMESH, TLS))
    if key.case == LEARNING:
        yield from at_least("k-gt >= 20x stock", 20.0, ratio(systems, STOCK, K_GT))
    if key.case == SERVER_SHARE:
        yield from at_most("< 1 %", 1.0, ours)


def in_turn(systems: Iterable[str], repeat: int, what: str) -> Iterator[str]:
    """Each system once, another one first in every repeat; says so."""
    order = list(systems)
    for number in range(len(order)):
        system = order[(number + repeat) % len(order)]
        print(f"{what}, repeat {repeat + 1}: {system}", file=sys.stderr)
        yield system
