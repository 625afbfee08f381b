"""What the controller makes of checkpoints and losses, in a run's attempts."""

from dataclasses import replace

import pytest

from flaremesh.metrics.names import RunState
from flaremesh.p2p import attempt
from flaremesh.p2p.attempt import Attempt, CurrentAttempt, NothingLeft
from flaremesh.p2p.controllers import checkpoint_clock
from flaremesh.p2p.controllers.checkpoint_clock import CheckpointClock
from flaremesh.p2p.controllers.failures import Failures
from flaremesh.p2p.extra import ExtraError, checkpoint_interval_of
from flaremesh.p2p.outcome import Absence, Members, absences

SITES = ("bonn", "ulm")


def begun(store, job="first"):
    return CurrentAttempt(store, Attempt(job, SITES, 600.0))


@pytest.mark.parametrize(
    ("checkpoints", "newest"),
    [([(100, 200), (200, 300)], 200), ([(100,), (200,)], None), ([(), (100,)], None)],
)
def test_a_run_goes_on_from_the_newest_checkpoint_that_all_sites_have(tmp_path, checkpoints, newest):
    assert begun(tmp_path).begin_at(dict(zip(SITES, checkpoints, strict=True))) == newest


def test_attempts_that_begin_at_one_iteration_are_counted(tmp_path):
    counts = []
    for checkpoints in ((), (), (100,), (100,), (100,)):
        begun(tmp_path).begin_at(dict.fromkeys(SITES, checkpoints))
        counts.append(attempt.read(tmp_path).fruitless)
    assert counts == [0, 1, 0, 1, 2]


def test_attempts_that_end_before_they_begin_are_counted(tmp_path):
    for _ in range(3):
        begun(tmp_path).end(RunState.FAILED, "bonn: the job process ended before the run began")
    assert attempt.read(tmp_path).fruitless == 2


def test_an_attempt_that_is_lost_says_what_was_lost(tmp_path):
    assert begun(tmp_path).end(RunState.FAILED, "bonn: lost its connection to the server")
    kept = attempt.read(tmp_path)
    assert (kept.state, kept.lost) == (RunState.FAILED, "bonn: lost its connection to the server")


def test_an_attempt_that_fails_is_the_last(tmp_path):
    assert not begun(tmp_path).end(RunState.FAILED, None)
    assert attempt.read(tmp_path).lost is None


def test_a_site_that_failed_is_the_cause_although_its_neighbours_waited_in_vain():
    failures = Failures(len(SITES))
    failures.add("ulm: no value from bonn for iteration 7", 7)
    failures.add("bonn: its data are gone")
    assert not failures.cause.is_loss


def test_where_a_run_ends_with_its_first_loss_nothing_is_kept():
    current = begun(None)
    assert not current.goes_on
    assert not current.end(RunState.FAILED, "bonn: lost its connection to the server")


@pytest.fixture
def clock(monkeypatch):
    """A clock for a checkpoint a minute: (seconds later, least, most) -> what it tells."""
    monkeypatch.setattr(checkpoint_clock.time, "monotonic", lambda: now[0])
    now = [1000.0]
    clock = CheckpointClock(60.0)

    def later(seconds, least, most):
        now[0] += seconds
        return clock.due(least, most)

    return later


def test_the_clock_tells_nothing_before_it_is_time(clock):
    assert clock(59, 590, 590) is None
    assert CheckpointClock(None).due(1000, 1000) is None


def test_the_clock_tells_an_iteration_that_no_site_has_reached_and_those_a_period_apart_that_follow(clock):
    first, every = clock(60, 598, 600)
    assert 600 < first <= 630
    assert every == 600


def test_as_long_as_iterations_take_as_long_the_clock_repeats_its_word(clock):
    told = clock(60, 600, 600)
    assert [clock(60, most, most) for most in (1200, 1900, 2400)] == 3 * [told]


@pytest.mark.parametrize(("done", "every"), [(300, 300), (1200, 1200)])
def test_where_iterations_take_longer_or_less_others_follow_one_that_was_told_before(clock, done, every):
    before = clock(60, 600, 600)
    told = clock(60, 600 + done, 600 + done)
    assert told.every == every
    assert told.first in before
    assert told.first > 600 + done


def test_no_others_are_told_while_a_site_has_not_done_the_first(clock):
    told = clock(60, 600, 600)
    assert clock(60, told.first - 1, 5000) == told
    assert clock(60, told.first, 10_000) != told


def test_a_run_that_stands_still_keeps_its_checkpoints(clock):
    told = clock(60, 600, 600)
    assert clock(60, 700, 700) != told
    told = clock(60, 1300, 1300)
    assert clock(60, 1300, 1300) == told


@pytest.mark.parametrize("done", [0, 1])
def test_where_an_iteration_takes_longer_than_a_period_the_next_one_is_kept(clock, done):
    first, every = clock(60, done, done)
    assert first == 1 + done + done  # one that has been done takes one more to hear of it
    assert every == done


@pytest.mark.parametrize(
    ("every", "iterations", "seconds"),
    [(500, 500, None), ("60s", None, 60.0), ("1.5h", None, 5400.0), ("2min", None, 120.0)],
)
def test_checkpoints_come_by_iterations_or_by_the_clock(every, iterations, seconds):
    checkpoints = checkpoint_interval_of({"on_loss": "wait", "checkpoint": {"every": every}})
    assert (checkpoints.iterations, checkpoints.seconds) == (iterations, seconds)


@pytest.mark.parametrize(
    "checkpoint", [{"every": 0}, {"every": "60 s"}, {"every": "0s"}, {"each": 5}, "b.pt"]
)
def test_another_word_for_when_checkpoints_come_is_refused(checkpoint):
    with pytest.raises(ExtraError, match="checkpoint"):
        checkpoint_interval_of({"on_loss": "wait", "checkpoint": checkpoint})


def test_in_a_run_that_ends_with_its_first_loss_checkpoint_is_a_word_of_its_authors():
    assert checkpoint_interval_of({"checkpoint": "best.pt"}) == checkpoint_interval_of({})


def taken_up(store, sites, checkpoints):
    """The next attempt, which the server's agent lets begin with these sites."""
    if last := attempt.read(store):
        attempt.write(store, replace(last, sites=sites))
    current = CurrentAttempt(store, Attempt("next", ("bonn", "ulm", "worms"), 600.0, quorum=2))
    current.begin_at(dict.fromkeys(sites, checkpoints))
    return current


def test_who_took_part_is_known_by_ranges_of_iterations(tmp_path):
    all_three = ("bonn", "ulm", "worms")
    taken_up(tmp_path, all_three, ())
    taken_up(tmp_path, all_three, (100,))
    current = taken_up(tmp_path, SITES, (300,))
    assert current.sites == SITES
    assert current.members == (Members(0, all_three), Members(300, SITES))
    assert current.missing == {"worms": 300}


def test_what_sites_did_after_the_checkpoint_that_the_others_go_on_from_is_gone(tmp_path):
    taken_up(tmp_path, ("bonn", "ulm", "worms"), ())
    assert taken_up(tmp_path, SITES, ()).members == (Members(0, SITES),)


def lost(store, **changes):
    """The last attempt, as the server's agent leaves it for the next one."""
    attempt.write(store, replace(attempt.read(store), **changes))


@pytest.fixture
def without_worms(tmp_path):
    """The store of a run that went on without worms at iteration 300."""
    taken_up(tmp_path, (*SITES, "worms"), ())
    lost(tmp_path, absent=("worms",))
    taken_up(tmp_path, SITES, (300,))
    return tmp_path


def joined_again(store, checkpoints):
    attempt.write(store, attempt.read(store).joined_by(["worms"]))
    current = CurrentAttempt(store, Attempt("next", ("bonn", "ulm", "worms"), 600.0, quorum=2))
    current.begin_at(checkpoints)
    return current


def test_who_joins_begins_where_the_others_are_whatever_it_has_of_before(without_worms):
    others = {"bonn": (300, 700), "ulm": (700, 900)}
    joined_again(without_worms, {**others, "worms": (200, 300)})
    assert attempt.read(without_worms).began_at == 700


def test_who_was_away_is_known_by_ranges_of_iterations(without_worms):
    current = joined_again(without_worms, {"bonn": (700,), "ulm": (700,), "worms": (300,)})
    assert [members.since for members in current.members] == [0, 300, 700]
    assert current.missing == {}
    assert absences(current.members) == [Absence("worms", 300, 700)]


def test_an_attempt_that_joins_somebody_and_does_not_begin_is_not_counted(without_worms):
    before = attempt.read(without_worms).fruitless
    for _ in range(3):
        joined_again(without_worms, {"bonn": (300,), "ulm": (300,)})
        lost(without_worms, **vars(attempt.read(without_worms).apart()))
    assert attempt.read(without_worms).fruitless == before


def test_who_has_joined_has_what_the_others_have(without_worms):
    joined_again(without_worms, {"bonn": (700,), "ulm": (700,)}).prepared()
    current = CurrentAttempt(without_worms, Attempt("next", SITES, 600.0, quorum=2))
    assert current.begin_at({"bonn": (700,), "ulm": (700, 900), "worms": (700,)}) == 700
    assert "worms" in current.sites


def test_all_repair_their_state_where_a_site_joins_until_there_is_a_later_checkpoint(without_worms):
    joins = joined_again(without_worms, {"bonn": (700,), "ulm": (700,)})
    assert joins.repairs
    joins.prepared()
    again = CurrentAttempt(without_worms, Attempt("next", SITES, 600.0, quorum=2))
    again.begin_at(dict.fromkeys(again.sites, (700,)))
    assert again.repairs
    again.begin_at(dict.fromkeys(again.sites, (900,)))
    assert not again.repairs


@pytest.mark.parametrize("sites", [["worms", "mallory", "bonn"], ["worms"]])
def test_only_a_site_that_is_away_can_be_back(without_worms, sites):
    current = taken_up(without_worms, SITES, (300,))
    attempt.announce(without_worms, sites)
    assert current.back == ("worms",)
    attempt.announce(without_worms, ())
    assert current.back == ()


def test_a_run_that_goes_on_without_sites_says_how_many_it_needs(tmp_path):
    with pytest.raises(ExtraError, match="quorum"):
        CurrentAttempt.begin(tmp_path, "first", SITES, {"on_loss": "continue", "quorum": 1})


@pytest.fixture
def given_up(tmp_path):
    """The store of a run that was lost too often after its checkpoint at iteration 100."""
    begun(tmp_path).begin_at(dict.fromkeys(SITES, (100,)))
    lost(tmp_path, state=RunState.FAILED, fruitless=3)
    return tmp_path


def test_a_run_that_is_resumed_may_be_lost_as_often_as_before(given_up):
    begun(given_up, "resumed").begin_at(dict.fromkeys(SITES, (100,)))
    assert attempt.read(given_up).fruitless == 0


def test_a_run_is_not_resumed_from_the_start_because_a_site_has_lost_its_checkpoints(given_up):
    resumed = begun(given_up, "resumed")
    with pytest.raises(NothingLeft, match="ulm has no checkpoint"):
        resumed.begin_at({"bonn": (100,), "ulm": ()})


def test_a_run_that_ended_before_its_first_checkpoint_is_resumed_from_the_start(given_up):
    assert begun(given_up, "resumed").begin_at(dict.fromkeys(SITES, ())) is None
