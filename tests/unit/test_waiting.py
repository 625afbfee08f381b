"""Waiting ends when nothing is pending any more, when the time is over, or when the question fails."""

import pytest

from flaremesh.waiting import wait_while

AGES = 1e9


def test_it_ends_as_soon_as_nothing_is_pending():
    answers = iter([["bonn", "ulm"], ["ulm"], []])
    assert wait_while(lambda: next(answers), AGES, poll=0) == []


def test_what_is_there_already_costs_no_time():
    assert wait_while(list, 0, poll=AGES) == []


def test_what_is_late_is_returned():
    assert wait_while(lambda: ["ulm"], 0.01, poll=0) == ["ulm"]


def test_a_question_that_fails_ends_it():
    def pending() -> list[str]:
        raise ChildProcessError("ulm has ended")

    with pytest.raises(ChildProcessError, match="ulm has ended"):
        wait_while(pending, AGES, poll=0)
