"""Runs that are struck by faults at random iterations become what docs/resilience.md promises."""

from faults import JobProcess
from running import Kind

BOUNDED_SEED = 17


def test_a_struck_run_leaves_the_bits_of_one_that_nobody_disturbed(suite):
    suite.disturb(Kind("gradient-tracking", "float32"), [JobProcess(), JobProcess(), JobProcess()], BOUNDED_SEED)
