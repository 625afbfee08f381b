"""How much the bench measures."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.processes import Round


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        sites: sizes of the NVFlare meshes.
        scalar, vectors: rounds of the fast systems.
        stock_scalar, stock_vectors: rounds of nvflare.app_opt.p2p.
        training: iterations of gradient tracking.
        overlap: floats, iterations, and seconds of a gradient.
        growth: sizes of the rings of plain processes.
        growth_rounds: what they do.
        repeats: how often everything takes its turn.
    """

    sites: Sequence[int]
    scalar: Round
    stock_scalar: Round
    vectors: Sequence[Round]
    stock_vectors: Sequence[Round]
    training: int
    overlap: tuple[int, int, float]
    growth: Sequence[int]
    growth_rounds: Sequence[Round]
    repeats: int


FULL = Plan(
    sites=(2, 4),
    scalar=Round(1, 10_000, 1000),  # what NVFlare does once a second counts, as its share is
    stock_scalar=Round(1, 200, 20),
    vectors=(Round(1_000, 1000, 100), Round(1_000_000, 120, 30), Round(10_000_000, 15, 4)),
    stock_vectors=(Round(1_000, 60, 10), Round(1_000_000, 12, 2), Round(10_000_000, 4, 1)),
    training=240,
    overlap=(10_000_000, 12, 0.06),
    growth=(2, 4, 8, 16, 32, 64),
    growth_rounds=(Round(1, 200, 20), Round(100_000, 30, 5)),
    repeats=3,
)

QUICK = Plan(
    sites=(2,),
    scalar=Round(1, 200, 20),
    stock_scalar=Round(1, 40, 5),
    vectors=(Round(1_000_000, 20, 4),),
    stock_vectors=(Round(1_000_000, 4, 1),),
    training=240,
    overlap=(1_000_000, 10, 0.01),
    growth=(2, 4),
    growth_rounds=(Round(1, 100, 10), Round(100_000, 10, 2)),
    repeats=1,
)
