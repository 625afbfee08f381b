"""Values of a run's ``extra``, right and wrong ones."""

import math

import pytest

from flaremesh.links.life import Tolerance
from flaremesh.p2p.extra import ExtraError, flag, planned_iterations, positive, tolerance_of, whole


@pytest.mark.parametrize(("value", "expected"), [(3, 3), (3.0, 3), (0, 0), (2**60 + 1, 2**60 + 1)])
def test_whole_numbers_are_taken_as_they_are(value, expected):
    assert whole({"n": value}, "n") == expected


@pytest.mark.parametrize("value", [None, True, "3", 2.5, -1, float("nan"), float("inf"), [3]])
def test_what_is_no_whole_number_is_refused_with_its_name(value):
    with pytest.raises(ExtraError, match=r'extra\["n"\] must be a whole number of at least 0, not '):
        whole({"n": value}, "n")


def test_a_value_that_is_missing_is_told_from_a_wrong_one():
    with pytest.raises(ExtraError, match=r'extra\["n"\] must be a number above 0, and it is missing'):
        positive({}, "n")
    assert whole({}, "n", default=7) == 7


@pytest.mark.parametrize("value", [0, 1, "yes", None])
def test_a_flag_is_true_or_false(value):
    with pytest.raises(ExtraError, match="must be true or false"):
        flag({"n": value}, "n", True)


@pytest.mark.parametrize(("extra", "planned"), [({"iterations": 5}, 5), ({"iterations": None}, 0), ({}, 0)])
def test_iterations_are_shown_where_the_run_says_how_many(extra, planned):
    assert planned_iterations(extra) == planned


def test_a_live_straggler_is_waited_for_without_end_unless_the_run_says_otherwise():
    assert tolerance_of({"patience": 30}) == Tolerance(30, math.inf)
    assert tolerance_of({"patience": 30, "straggler_timeout": 90}) == Tolerance(30, 90)


@pytest.mark.parametrize("value", [0, -1, "long", True, math.inf])
def test_a_straggler_timeout_that_is_no_time_is_refused(value):
    with pytest.raises(ExtraError, match="straggler_timeout"):
        tolerance_of({"straggler_timeout": value})
