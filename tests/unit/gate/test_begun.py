"""Which runs have begun at a site, and which of them get further attempts."""

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from flaremesh.metrics.names import RunState
from flaremesh.p2p.gate import audit, begun, egress
from flaremesh.p2p.gate.begun import BEGUN, MOST_ATTEMPTS_FINISHED, MOST_DAYS, Begun
from flaremesh.p2p.gate.request import Refused

NOW = datetime(2027, 3, 1, 12, 30, tzinfo=UTC)
LATER = NOW + timedelta(days=20)
ORDER = "a" * 64


@pytest.fixture
def attempt_of(request_of):
    """An attempt of a run that waits for what it loses."""

    def make(job="job-1", **fields):
        return request_of(**{"job": job, "order": ORDER, "on_loss": "wait"} | fields)

    return make


def leave(workspace, job, state):
    """What the process of a job leaves when it ends."""
    egress.write(workspace / job, egress.Egress(state))


def test_a_run_that_waits_gets_one_attempt_after_the_other_long_after_its_order(workspace, attempt_of):
    for number in (1, 2, 3):
        assert Begun(workspace).add(attempt_of(f"job-{number}"), NOW + number * timedelta(days=9)) == number
        leave(workspace, f"job-{number}", RunState.FAILED)


def test_a_run_that_does_not_wait_begins_once(workspace, request_of):
    Begun(workspace).add(request_of(), NOW)
    with pytest.raises(Refused, match="this run has begun before"):
        Begun(workspace).add(request_of(job="another"), NOW)


def test_an_app_that_only_now_says_that_it_waits_is_no_attempt(workspace, request_of, attempt_of):
    Begun(workspace).add(request_of(order=ORDER), NOW)
    with pytest.raises(Refused, match="this run has begun before"):
        Begun(workspace).attempt(attempt_of(), NOW)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"order": "b" * 64}, "another job has begun here under this run's id"),
        ({"submitter": "eve@example.org"}, r"is of lead@consortium\.org, who must have signed each attempt"),
    ],
)
def test_an_attempt_is_of_the_same_job_of_the_same_submitter(workspace, attempt_of, fields, reason):
    Begun(workspace).add(attempt_of(), NOW)
    with pytest.raises(Refused, match=reason):
        Begun(workspace).add(attempt_of("job-2", **fields), LATER)


def test_there_is_one_attempt_at_a_time(workspace, attempt_of):
    Begun(workspace).add(attempt_of(), NOW)
    with pytest.raises(Refused, match="this run has begun before, and still runs here"):
        Begun(workspace).add(attempt_of("job-2"), NOW, running={"job-1"})
    assert Begun(workspace).add(attempt_of("job-2"), NOW, running={"of-another-run"}) == 2


def test_a_run_that_has_finished_here_gets_a_few_attempts_more(workspace, attempt_of):
    Begun(workspace).add(attempt_of("job-0"), NOW)
    for number in range(MOST_ATTEMPTS_FINISHED):
        leave(workspace, f"job-{number}", RunState.FINISHED)
        Begun(workspace).add(attempt_of(f"job-{number + 1}"), NOW)
    with pytest.raises(Refused, match="this run has finished here, and 3 attempts have followed"):
        Begun(workspace).add(attempt_of("job-4"), NOW)


def test_a_run_of_which_the_server_says_that_it_is_over_gets_none_more(workspace, attempt_of):
    Begun(workspace).add(attempt_of(), NOW)
    Begun(workspace).end("another run")
    assert Begun(workspace).add(attempt_of("job-2"), NOW) == 2
    Begun(workspace).end(attempt_of().run)
    with pytest.raises(Refused, match="this run has begun before"):
        Begun(workspace).add(attempt_of("job-3"), NOW)
    assert Begun(workspace).over(NOW) == {attempt_of().order}


def test_an_attempt_that_fails_does_not_make_a_run_that_has_finished_here_begin_anew(workspace, attempt_of):
    Begun(workspace).add(attempt_of("job-0"), NOW)
    leave(workspace, "job-0", RunState.FINISHED)
    for number in range(MOST_ATTEMPTS_FINISHED):
        Begun(workspace).add(attempt_of(f"job-{number + 1}"), NOW)
        leave(workspace, f"job-{number + 1}", RunState.FAILED)
    with pytest.raises(Refused, match="3 attempts have followed"):
        Begun(workspace).add(attempt_of("job-4"), NOW)


def test_a_day_after_its_end_a_run_gets_no_further_attempt(workspace, attempt_of):
    Begun(workspace).add(attempt_of(), NOW)
    leave(workspace, "job-1", RunState.FINISHED)
    assert Begun(workspace).over(NOW) == set()
    assert Begun(workspace).attempt(attempt_of("job-2"), NOW + timedelta(hours=23)) == 2
    with pytest.raises(Refused, match="this run finished here 24 hours ago"):
        Begun(workspace).attempt(attempt_of("job-2"), NOW + timedelta(hours=24))


def test_that_a_run_has_finished_is_known_when_its_folder_is_gone(workspace, attempt_of):
    Begun(workspace).add(attempt_of(), NOW)
    leave(workspace, "job-1", RunState.FINISHED)
    Begun(workspace).over(NOW)
    shutil.rmtree(workspace / "job-1")
    assert Begun(workspace).over(NOW + timedelta(hours=24)) == {ORDER}


def test_a_run_has_many_attempts_and_no_more(workspace, attempt_of, monkeypatch):
    monkeypatch.setattr(begun, "MOST_ATTEMPTS", 3)
    for number in range(3):
        Begun(workspace).add(attempt_of(f"job-{number}"), NOW)
    with pytest.raises(Refused, match="this run has had 3 attempts here"):
        Begun(workspace).add(attempt_of("job-3"), NOW)


def test_attempts_end_some_weeks_after_the_first(workspace, attempt_of):
    Begun(workspace).add(attempt_of(), NOW)
    Begun(workspace).add(attempt_of("job-2"), LATER)
    with pytest.raises(Refused, match="began 30 days ago"):
        Begun(workspace).attempt(attempt_of("job-3"), NOW + timedelta(days=MOST_DAYS))


def test_a_person_denies_further_attempts_of_a_run_that_has_begun(workspace, attempt_of):
    Begun(workspace).add(attempt_of(), NOW)
    assert Begun(workspace).deny("run-1", by="ada") == "lead@consortium.org"
    with pytest.raises(Refused, match="a person at this site denied it"):
        Begun(workspace).attempt(attempt_of("job-2"), NOW)
    (denied,) = audit.entries(workspace)
    assert (denied["event"], denied["run"], denied["by"]) == ("denied", "run-1", "ada")


def test_there_is_nothing_to_deny_of_a_run_without_further_attempts(workspace, request_of):
    Begun(workspace).add(request_of(), NOW)
    assert Begun(workspace).deny("run-1", by="ada") is None
    assert Begun(workspace).deny("run-2", by="ada") is None


def test_a_run_is_over_when_no_attempt_can_follow(workspace, attempt_of, request_of):
    Begun(workspace).add(attempt_of(run="waits"), NOW)
    Begun(workspace).add(attempt_of(run="denied", order="b" * 64), NOW)
    Begun(workspace).add(request_of(run="fails", order="c" * 64), NOW)
    Begun(workspace).deny("denied", by="ada")
    assert Begun(workspace).over(NOW) == {"b" * 64, "c" * 64}
    assert Begun(workspace).over(NOW + timedelta(days=MOST_DAYS)) == {ORDER, "b" * 64, "c" * 64}


def test_a_run_that_goes_on_for_days_is_known_until_it_has_ended(workspace, request_of):
    Begun(workspace).add(request_of(job="long", order=ORDER), NOW)
    other = request_of(run="run-2", at=LATER, order="b" * 64)
    Begun(workspace).add(other, LATER, running={"long"})
    assert ORDER in Begun(workspace).over(LATER)


def test_a_list_of_an_earlier_version_still_keeps_runs_from_beginning_again(workspace, attempt_of):
    file = workspace / BEGUN
    file.parent.mkdir()
    file.write_text(json.dumps({"runs": {"run-1": "2027-03-01T12:00:00Z"}}))
    Begun(workspace).add(attempt_of(run="run-2"), NOW)
    with pytest.raises(Refused, match="this run has begun before"):
        Begun(workspace).attempt(attempt_of(), NOW)


@pytest.mark.parametrize(("finished", "lets_in"), [(False, True), (True, False)])
def test_a_list_that_says_only_whether_a_run_has_finished_is_understood(
    workspace, attempt_of, finished, lets_in
):
    runs = Begun(workspace)
    runs.add(attempt_of(), NOW - timedelta(days=2))
    kept = json.loads((workspace / BEGUN).read_text())
    for run in kept["runs"].values():
        run["finished"] = finished
    (workspace / BEGUN).write_text(json.dumps(kept))
    leave(workspace, "job-1", RunState.FAILED)
    if lets_in:
        assert runs.add(attempt_of("job-2"), NOW) == 2
    else:
        with pytest.raises(Refused, match="finished here 24 hours ago"):
            runs.add(attempt_of("job-2"), NOW)


def test_old_runs_that_wait_make_room_for_new_ones(workspace, attempt_of, monkeypatch):
    monkeypatch.setattr(begun, "_MOST", 3)
    for day in range(3):
        Begun(workspace).add(attempt_of(run=f"old-{day}"), NOW + timedelta(days=day))
    Begun(workspace).add(attempt_of(run="new", at=LATER), LATER)
    assert [Begun(workspace).attempt(attempt_of(run=f"old-{day}"), LATER) for day in range(3)] == [1, 2, 2]


def test_no_run_is_forgotten_that_could_be_replayed(workspace, attempt_of, monkeypatch):
    monkeypatch.setattr(begun, "_MOST", 3)
    for number in range(3):
        Begun(workspace).add(attempt_of(f"job-{number}", run=f"run-{number}"), NOW)
        leave(workspace, f"job-{number}", RunState.FINISHED)
    with pytest.raises(Refused, match="more than 3 runs within 12 hours"):
        Begun(workspace).add(attempt_of(run="new"), NOW)


def test_a_damaged_list_lets_nothing_in(workspace, attempt_of):
    (workspace / BEGUN).parent.mkdir()
    (workspace / BEGUN).write_text("{")
    with pytest.raises(Refused, match="the site's admin may remove it"):
        Begun(workspace).add(attempt_of(), NOW)


def test_a_run_continues_one_of_the_same_submitter(workspace, attempt_of):
    Begun(workspace).add(attempt_of(run="old"), NOW)
    assert Begun(workspace).continued(attempt_of("job-2", run="new", continues="old")) == "a" * 64
    assert Begun(workspace).continued(attempt_of("job-2", run="new", continues="unknown")) == ""
    assert Begun(workspace).continued(attempt_of("job-2", run="new")) == ""


@pytest.mark.parametrize(
    ("fields", "running", "reason"),
    [
        ({"submitter": "mallory@consortium.org"}, (), "is of lead"),
        ({"on_loss": "fail"}, (), "ends with its first loss"),
        ({}, ("job-1",), "still runs here"),
    ],
)
def test_a_run_continues_no_other(workspace, attempt_of, fields, running, reason):
    Begun(workspace).add(attempt_of(run="old"), NOW)
    with pytest.raises(Refused, match=reason):
        Begun(workspace).continued(attempt_of("job-2", run="new", continues="old", **fields), running)


def test_a_run_that_a_person_has_denied_is_not_continued(workspace, attempt_of):
    Begun(workspace).add(attempt_of(run="old"), NOW)
    Begun(workspace).deny("old", "ann")
    with pytest.raises(Refused, match="a person at this site denied"):
        Begun(workspace).continued(attempt_of("job-2", run="new", continues="old"))
