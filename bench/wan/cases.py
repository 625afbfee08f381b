"""What is measured on which network."""

from dataclasses import dataclass, replace

from bench.processes import Round
from bench.samples import FLAREMESH, GLOO, MET, STOCK, TLS
from bench.wan.line import Shape
from bench.wan.network import path

EXACT = "exact"
WIRES = (EXACT, "bfloat16", "int8")
ALL_WIRES = (EXACT, "float32", "bfloat16", "float16", "int8", "top-k")

TCP_SHARE = 1448 / 1500
"""Of a line's bytes, those that TCP carries: the rest are headers."""


@dataclass(frozen=True)
class Way:
    """From site to site.

    Attributes:
        rate: bits per second of each site's line, up and down.
        one_way: seconds.
    """

    rate: float
    one_way: float

    @property
    def name(self) -> str:
        rate = f"{self.rate / 1e9:g} Gbit/s" if self.rate >= 1e9 else f"{self.rate / 1e6:g} Mbit/s"
        return f"{rate}, {1e3 * self.one_way:g} ms"

    @property
    def shape(self) -> Shape:
        """Of the lines."""
        return path(self.rate, self.one_way)

    def seconds(self, length: int) -> float:
        """That ``length`` bytes take on a line that is never idle, until the last has come."""
        return 8 * length / (TCP_SHARE * self.rate) + self.one_way


@dataclass(frozen=True)
class Case:
    """Sites on one network.

    Attributes:
        way: between any two.
        sites: 2, or more for a ring.
        lengths: rounds of one wire.
    """

    way: Way
    sites: int
    lengths: tuple[Round, ...]

    @property
    def neighbours(self) -> int:
        """Of each site, which share its line."""
        return min(2, self.sites - 1)

    def rounds(self, wires: tuple[str, ...], turn: int) -> list[Round]:
        """Each length with each wire, another wire first at each turn; a number is the same on all wires."""
        order = wires[turn % len(wires) :] + wires[: turn % len(wires)]
        return [
            replace(each, wire=wire)
            for each in self.lengths
            for wire in ((EXACT,) if each.floats == 1 else order)
        ]

    def stock_rounds(self) -> list[Round]:
        """Each length, with the iterations that the stock package does in bearable time."""
        return [Round(each.floats, *_STOCK_ITERATIONS.get(each.floats, (2, 1))) for each in self.lengths]


_STOCK_ITERATIONS = {1: (8, 2), 1_000_000: (3, 1)}

SLOW, FAST = Way(100e6, 0.025), Way(1e9, 0.005)

BOUNDED = (
    Case(SLOW, 2, (Round(1, 40, 5), Round(1_000_000, 6, 2), Round(10_000_000, 3, 1))),
    Case(FAST, 2, (Round(1, 100, 10), Round(1_000_000, 20, 4), Round(10_000_000, 8, 2))),
    Case(SLOW, 4, (Round(1_000_000, 4, 2),)),
    Case(FAST, 4, (Round(1_000_000, 12, 3), Round(10_000_000, 4, 1))),
)
"""About three minutes a turn."""

EVERYTHING = (
    *BOUNDED[:2],
    Case(SLOW, 4, (Round(1, 40, 5), Round(1_000_000, 4, 2), Round(10_000_000, 2, 1))),
    Case(FAST, 4, (Round(1, 100, 10), Round(1_000_000, 12, 3), Round(10_000_000, 4, 1))),
)

QUICK = (Case(Way(400e6, 0.005), 2, (Round(1, 20, 2), Round(100_000, 4, 1))),)
"""The same code on little data."""


def system(wire: str) -> str:
    """How flaremesh with a wire is called."""
    return FLAREMESH if wire == EXACT else f"{FLAREMESH}, {wire}"


IDEAL = "a full line"
SYSTEMS = (*map(system, ALL_WIRES), MET, STOCK, GLOO, TLS, IDEAL)
