"""Runs that are struck by faults at random iterations become what docs/resilience.md promises."""

from random import Random

import pytest
from faults import ALL, FullVolume, JobProcess, WhileWriting
from running import KINDS, Kind
from suite import SEED

RUNS = 12
FAULTS = 5
"""Of a run, one after another."""
BOUNDED_SEED = 17


def dealt(seed: int) -> list[tuple[type, ...]]:
    """The faults of each run: each kind as often as the others, in a random order."""
    deck, random = ALL * (RUNS * FAULTS // len(ALL) + 1), Random(seed)
    while True:
        random.shuffle(deck)
        hands = [deck[FAULTS * run : FAULTS * (run + 1)] for run in range(RUNS)]
        if all(sum(fault.outlasts for fault in hand) <= 1 for hand in hands):  # it comes last
            return [tuple(sorted(hand, key=lambda fault: fault.outlasts)) for hand in hands]


def test_a_struck_run_leaves_the_bits_of_one_that_nobody_disturbed(bounded_suite):
    bounded_suite.disturb(
        Kind("gradient-tracking", "int8"), [FullVolume(), JobProcess(), WhileWriting()], BOUNDED_SEED
    )


@pytest.mark.chaos
@pytest.mark.parametrize("number", range(RUNS), ids=[f"{number}-{KINDS[number]}" for number in range(RUNS)])
def test_whatever_strikes_a_run_becomes_what_is_promised(suite, number):
    faults = [fault() for fault in dealt(SEED)[number]]
    suite.disturb(KINDS[number], faults, SEED, number)


@pytest.mark.chaos
def test_the_table_has_all_faults(suite):
    """Last: a suite that struck nothing would pass."""
    assert len(suite.table.rows) >= RUNS * FAULTS
