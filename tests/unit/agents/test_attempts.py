"""What the server's agent makes of attempts that have ended."""

import json
import threading
import time
from dataclasses import replace

import pytest

from flaremesh.metrics.names import RunState
from flaremesh.p2p import attempt
from flaremesh.p2p.agents.attempts import Attempts
from flaremesh.p2p.attempt import Attempt, CurrentAttempt
from flaremesh.p2p.gate import order
from flaremesh.p2p.nvflare.jobs import ENDED_BY_ADMIN, GIVEN_UP, LOST, MISSING, NEXT_ATTEMPT
from flaremesh.p2p.outcome import Members
from flaremesh.p2p.store import STORES, store_of
from flaremesh.waiting import wait_while

SITES = ("bonn", "ulm")


class Server:
    """The jobs of a server whose sites come and go as the test says."""

    def __init__(self):
        self.registered = set(SITES)
        self.logins = {site: f"login of {site}" for site in (*SITES, "worms")}
        self.jobs = {"first"}
        self.notes = {}
        self.cannot_begin = 0
        self.running = []
        self.refused = {}
        self.waiting = set()
        self.withdrawn = set()
        self.lets_wait = lambda clone: False
        self.abandoned = set()
        self.silent_for = 0.0
        self.told_over = []

    def tell_over(self, run, sites):
        self.told_over += [(site, run) for site in sites]

    def sites(self):
        return self.logins

    def ask(self, site):
        return json.dumps(self.running).encode() if site in self.registered else None

    def note(self, job, entries):
        self.notes.setdefault(job, {}).update(entries)

    def keeps(self, job):
        return job in self.jobs

    def clone(self, job, sites, entries):
        if job not in self.jobs:
            return None
        self.taking_part, self.told = sites, entries
        self.jobs.add(clone := f"job-{len(self.jobs)}")
        if self.lets_wait(clone):
            self.waiting.add(clone)
        return clone

    def withdraw(self, job):
        self.waiting.discard(job)
        self.withdrawn.add(job)

    def was_withdrawn(self, job):
        return job in self.withdrawn

    def refusals(self, job):
        return self.refused

    def is_abandoned(self, job):
        return job in self.abandoned

    def silence(self, sites):
        return self.silent_for

    def waits(self, job):
        return job in self.waiting

    def has_begun(self, job):
        self.cannot_begin -= 1
        return self.cannot_begin < 0


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def app(tmp_path):
    """Of a run that goes on after a loss."""
    folder = tmp_path / "first" / "app_server"
    order.write(order.order(SITES, None, on_loss="wait"), folder)
    store_of(tmp_path, folder).mkdir(parents=True)
    return folder


@pytest.fixture
def attempts(tmp_path, server, app):
    attempts = Attempts(tmp_path, server, lambda job: app, server.ask)
    attempts.started("first")
    return attempts


@pytest.fixture
def store(tmp_path, app):
    return store_of(tmp_path, app)


def leave(store, state, lost=None, patience=20.0, sites=SITES, **more):
    attempt.write(store, Attempt("first", sites, patience, state=state, lost=lost, **more))


def settled(server):
    """What the server notes of the job but who is missing, once nothing more is to come."""
    assert not wait_while(
        lambda: [thread for thread in threading.enumerate() if thread.name == "attempts"], 20, 0.01
    )
    return {key: value for key, value in server.notes.get("first", {}).items() if key != MISSING}


def missing(attempts):
    """Which run waits for whom, or goes on without whom."""
    return {(run, site) for run, site, _ in attempts.missing()}


def becomes(expected, attempts):
    return not wait_while(lambda: missing(attempts) != expected, 20, 0.01)


def test_a_lost_attempt_is_followed_by_another(attempts, server, store):
    leave(store, RunState.FAILED, "bonn: the job process ended without a word")
    attempts.ended("first", None)
    assert settled(server) == {LOST: "bonn: the job process ended without a word", NEXT_ATTEMPT: "job-1"}


@pytest.mark.parametrize("state", [RunState.FINISHED, RunState.FAILED, RunState.ABORTED])
def test_an_attempt_that_was_not_lost_is_the_last(attempts, server, app, store, state):
    leave(store, state)
    attempts.ended("first", None)
    assert settled(server) == {}
    run = order.read(app).run
    assert server.told_over == ([(site, run) for site in SITES] if state is RunState.FINISHED else [])


def test_an_attempt_whose_process_at_the_server_was_killed_is_lost(attempts, server, store):
    leave(store, RunState.RUNNING)
    attempts.ended("first", None)
    assert settled(server)[NEXT_ATTEMPT] == "job-1"


def test_an_attempt_that_an_admin_has_aborted_is_the_last_although_its_process_had_to_be_killed(
    attempts, server, store
):
    leave(store, RunState.RUNNING)
    attempts.aborted("first", None)
    attempts.ended("first", None)
    assert settled(server) == {}
    assert attempt.read(store).state is RunState.ABORTED


def test_a_job_process_that_ends_before_its_run_began_is_a_loss(attempts, server, store):
    leave(store, RunState.ABORTED)
    attempts.aborted("first", "bonn")
    attempts.ended("first", None)
    assert settled(server)[LOST] == "bonn: the job process ended before the run began"


def test_the_next_attempt_waits_until_all_sites_are_back(attempts, server, store):
    leave(store, RunState.FAILED, "bonn: lost its connection to the server")
    server.registered = {"ulm"}
    attempts.ended("first", None)
    assert NEXT_ATTEMPT not in server.notes["first"]
    server.registered = set(SITES)
    assert settled(server)[NEXT_ATTEMPT] == "job-1"


def test_the_next_attempt_waits_until_the_one_before_has_ended_at_all_sites(attempts, server, store):
    leave(store, RunState.FAILED, "bonn: lost its connection to the server")
    server.running = ["first"]
    attempts.ended("first", None)
    assert NEXT_ATTEMPT not in server.notes["first"]
    server.running = ["another"]
    assert settled(server)[NEXT_ATTEMPT] == "job-1"


@pytest.mark.parametrize("answer", [b"{", b'{"jobs": []}', b"[" * 100_000])
def test_a_site_that_answers_something_else_is_not_there(tmp_path, server, app, store, answer):
    attempts = Attempts(tmp_path, server, lambda job: app, lambda site: answer)
    attempts.started("first")
    leave(store, RunState.FAILED, "bonn: lost its connection to the server", patience=0.3)
    attempts.ended("first", None)
    assert settled(server)[GIVEN_UP] == "not there: bonn, ulm, after 0.3 s"


def test_after_its_patience_the_server_gives_up_and_names_who_is_missing(attempts, server, store):
    leave(store, RunState.FAILED, "bonn: lost its connection to the server", patience=0.3)
    server.registered = {"ulm"}
    attempts.ended("first", None)
    assert settled(server)[GIVEN_UP] == "not there: bonn, after 0.3 s"
    assert attempt.read(store).lost is None


def test_the_time_for_which_a_site_was_silent_before_counts(attempts, server, store, monkeypatch):
    monkeypatch.setattr("flaremesh.p2p.agents.next_attempt._LEAVE_SECONDS", 0.3)
    leave(store, RunState.FAILED, "bonn: lost its connection to the server", patience=100.0)
    server.registered, server.silent_for = {"ulm"}, 100.0
    attempts.ended("first", None)
    assert settled(server)[GIVEN_UP] == "not there: bonn, after 100 s"


@pytest.mark.parametrize(
    ("job", "state", "patience"),
    [
        ("first", RunState.RUNNING, 7.0),
        ("first", RunState.CONFIGURING, 0.0),
        ("of no run", RunState.RUNNING, 0.0),
    ],
)
def test_a_job_of_a_run_that_iterates_and_goes_on_is_patient_with_silent_sites(
    attempts, store, job, state, patience
):
    leave(store, state, patience=7.0)
    assert attempts.patience(job) == patience


def test_an_attempt_that_cannot_begin_is_tried_again(attempts, server, store):
    lost = "bonn: lost its connection to the server"
    server.cannot_begin = 2
    leave(store, RunState.FAILED, lost)
    attempts.ended("first", None)
    settled(server)
    followed = {"first": "job-1", "job-1": "job-2", "job-2": "job-3"}
    assert server.notes == {job: {LOST: lost, NEXT_ATTEMPT: after} for job, after in followed.items()}


def test_an_attempt_that_a_site_refuses_is_the_last(attempts, server, store):
    server.cannot_begin, server.refused = 1, {"bonn": "a person at this site denied it"}
    leave(store, RunState.FAILED, "ulm: lost its connection to the server")
    attempts.ended("first", None)
    assert settled(server)[GIVEN_UP] == "bonn: a person at this site denied it"
    assert server.jobs == {"first", "job-1"}


def test_a_run_that_is_lost_again_and_again_before_its_next_checkpoint_ends(attempts, server, store):
    leave(store, RunState.FAILED, "bonn: the job process ended without a word", fruitless=3)
    attempts.ended("first", None)
    assert "4 times" in settled(server)[GIVEN_UP]


def test_a_run_that_waits_ends_when_an_admin_aborts_it(attempts, server, store):
    leave(store, RunState.FAILED, "bonn: lost its connection to the server")
    server.registered.discard("bonn")
    attempts.ended("first", None)
    attempts.told_to_end("first")
    assert settled(server)[GIVEN_UP] == ENDED_BY_ADMIN
    assert (server.jobs, server.withdrawn) == ({"first"}, {"first"})
    assert (attempt.read(store).state, attempt.read(store).lost) == (RunState.ABORTED, None)


def test_a_run_that_waits_ends_when_an_admin_removes_its_job(attempts, server, store):
    leave(store, RunState.FAILED, "bonn: lost its connection to the server")
    server.jobs.clear()
    attempts.ended("first", None)
    assert NEXT_ATTEMPT not in settled(server)
    assert attempt.read(store).state is RunState.ABORTED


def test_a_run_whose_next_attempt_an_admin_aborts_before_it_begins_is_over(attempts, server, store):
    leave(store, RunState.FAILED, "bonn: lost its connection to the server")
    server.withdrawn = {"job-1"}
    attempts.ended("first", None)
    assert settled(server)[NEXT_ATTEMPT] == "job-1"
    left = attempt.read(store)
    assert (left.state, left.lost) == (RunState.ABORTED, None)


def test_a_server_that_starts_again_takes_up_the_runs_that_its_end_has_cut_off(tmp_path, server, store):
    leave(store, RunState.RUNNING)
    Attempts(tmp_path, server, lambda job: tmp_path, server.ask).take_up()
    assert settled(server)[NEXT_ATTEMPT] == "job-1"


def test_a_run_whose_process_was_not_up_when_the_server_ended_is_begun_again(tmp_path, server, app, store):
    config = {"workflows": [{"args": {"config": {"network": {}, "extra": {"patience": 7.0}}}}]}
    (app / "config/config_fed_server.json").write_text(json.dumps(config))
    Attempts(tmp_path, server, lambda job: app, server.ask).take_up(["first"])
    assert settled(server)[NEXT_ATTEMPT] == "job-1"
    left = attempt.read(store)
    assert (left.job, left.sites, left.patience) == ("job-1", SITES, 7.0)


@pytest.mark.parametrize(
    "said", ["{", '{"network": {}, "extra": [1]}', '{"network": {}, "extra": {"patience": 0}}']
)
def test_whatever_such_a_run_says_the_server_starts(tmp_path, server, app, store, said):
    (app / "config/config_fed_server.json").write_text(said)
    Attempts(tmp_path, server, lambda job: app, server.ask).take_up(["first"])
    assert (settled(server), attempt.read(store)) == ({}, None)


def test_a_job_of_which_nothing_is_known_and_one_that_ends_with_its_first_loss_are_not(tmp_path, server):
    once = tmp_path / "other" / "app_server"
    order.write(order.order(SITES, None), once)
    apps = {"other": once, "unknown": tmp_path / "unknown"}
    Attempts(tmp_path, server, apps.__getitem__, server.ask).take_up(apps)
    assert server.notes == {}


def test_an_attempt_that_waited_to_begin_when_the_server_ended_is_not_begun_twice(tmp_path, server, store):
    leave(store, RunState.WAITING, "bonn: lost its connection to the server")
    server.waiting = {"first"}
    Attempts(tmp_path, server, lambda job: tmp_path, server.ask).take_up()
    server.waiting = set()
    assert settled(server) == {}
    assert server.jobs == {"first"}


def test_an_attempt_that_waited_when_the_server_ended_and_cannot_begin_is_tried_again(
    tmp_path, server, store
):
    leave(store, RunState.WAITING, "bonn: lost its connection to the server")
    server.waiting, server.cannot_begin = {"first"}, 1
    Attempts(tmp_path, server, lambda job: tmp_path, server.ask).take_up()
    server.waiting = set()
    assert settled(server)[NEXT_ATTEMPT] == "job-1"


@pytest.mark.parametrize("state", [RunState.FINISHED, RunState.ABORTED])
def test_an_end_of_which_nobody_may_have_heard_when_the_server_ended_is_none(tmp_path, server, store, state):
    leave(store, state)
    server.abandoned = {"first"}
    attempts = Attempts(tmp_path, server, lambda job: tmp_path, server.ask)
    attempts.take_up()
    assert attempts.over() == set()
    assert settled(server)[NEXT_ATTEMPT] == "job-1"


def test_a_run_that_failed_by_itself_when_the_server_ended_is_over(tmp_path, server, store):
    leave(store, RunState.FAILED)
    server.abandoned = {"first"}
    Attempts(tmp_path, server, lambda job: tmp_path, server.ask).take_up()
    assert settled(server) == {}


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.ABORTED])
def test_a_run_that_is_under_way_when_the_server_is_stopped_goes_on_when_it_starts_again(
    tmp_path, attempts, server, store, state
):
    leave(store, state)
    attempts.leave()
    attempts.aborted("first", None)
    attempts.ended("first", None)
    assert settled(server) == {LOST: "the server was stopped"}
    Attempts(tmp_path, server, lambda job: tmp_path, server.ask).take_up()
    assert settled(server)[NEXT_ATTEMPT] == "job-1"


@pytest.mark.parametrize("state", [RunState.FINISHED, RunState.FAILED, RunState.ABORTED])
def test_a_server_that_starts_again_leaves_runs_alone_that_have_ended(tmp_path, server, store, state):
    leave(store, state)
    Attempts(tmp_path, server, lambda job: tmp_path, server.ask).take_up()
    assert settled(server) == {}


@pytest.mark.parametrize(
    ("state", "lost"),
    [(RunState.FAILED, "bonn: lost its connection"), (RunState.FAILED, None), (RunState.ABORTED, None)],
)
def test_the_store_of_a_run_is_kept_as_long_as_it_may_be_resumed(attempts, store, state, lost):
    assert attempts.over() == set()
    leave(store, state, lost)
    assert attempts.over() == set()
    leave(store, RunState.FINISHED)
    assert attempts.over() == {store.name}


def test_the_job_with_which_an_admin_resumes_a_run_is_its_next_attempt(attempts, server, store):
    leave(store, RunState.ABORTED)
    attempts.started("resumed")
    assert server.notes == {"first": {NEXT_ATTEMPT: "resumed"}}


def test_a_run_that_ends_with_its_first_loss_has_one_attempt(tmp_path, server):
    folder = tmp_path / "other" / "app_server"
    order.write(order.order(SITES, None), folder)
    attempts = Attempts(tmp_path, server, lambda job: folder, server.ask)
    attempts.started("other")
    attempts.ended("other", None)
    assert server.notes == {}


def test_a_store_that_holds_something_else_is_left_alone(tmp_path, server):
    (tmp_path / STORES / "0" / "attempt.json").parent.mkdir(parents=True)
    (tmp_path / STORES / "0" / "attempt.json").write_text(json.dumps({"job": ["first"]}))
    Attempts(tmp_path, server, lambda job: tmp_path, server.ask).take_up()
    assert server.notes == {}


THREE = (*SITES, "worms")


def test_after_its_patience_a_run_that_may_goes_on_without_who_is_missing(attempts, server, store):
    server.registered = {"ulm", "bonn"}
    leave(store, RunState.FAILED, "worms: lost its connection to the server", 0.3, THREE, quorum=2)
    attempts.ended("first", None)
    assert settled(server)[NEXT_ATTEMPT] == "job-1"
    assert server.taking_part == ("bonn", "ulm")
    assert attempt.read(store).sites == ("bonn", "ulm")


def test_an_attempt_of_all_that_still_waits_then_gives_way_to_that_of_the_others(attempts, server, store):
    def loses_worms(clone):
        server.registered.discard("worms")
        return clone == "job-1"

    server.registered, server.lets_wait = set(THREE), loses_worms
    leave(store, RunState.FAILED, "worms: the job process ended without a word", 0.3, THREE, quorum=2)
    attempts.ended("first", None)
    assert settled(server)[NEXT_ATTEMPT] == "job-1"
    assert server.notes["job-1"][NEXT_ATTEMPT] == "job-2"
    assert server.withdrawn == {"job-1"}
    assert server.taking_part == ("bonn", "ulm")


def test_who_is_back_in_time_takes_part(attempts, server, store):
    leave(store, RunState.FAILED, "worms: the job process ended without a word", 20.0, SITES, quorum=2)
    attempts.ended("first", None)
    assert settled(server)[NEXT_ATTEMPT] == "job-1"
    assert server.taking_part == SITES


def test_fewer_than_the_quorum_do_not_go_on(attempts, server, store):
    server.registered = {"ulm"}
    leave(store, RunState.FAILED, "worms: lost its connection to the server", 0.3, THREE, quorum=2)
    attempts.ended("first", None)
    assert settled(server)[GIVEN_UP] == (
        "not there: bonn, worms, after 0.3 s; 1 of 2 sites that must be there to go on are"
    )


def test_who_a_run_waits_for_is_told_until_it_goes_on_and_since_when(attempts, server, store):
    leave(store, RunState.FAILED, "bonn: lost its connection to the server")
    server.registered = {"ulm"}
    before = time.time()
    attempts.ended("first", None)
    assert becomes({("first", "bonn")}, attempts)
    assert not wait_while(
        lambda: MISSING not in server.notes.get("first", {}), 20, 0.01
    )  # which is written next
    assert server.notes["first"][MISSING] == {site: since for _, site, since in attempts.missing()}
    assert all(before <= since <= time.time() for _, _, since in attempts.missing())
    server.registered = set(SITES)
    settled(server)
    assert missing(attempts) == set()
    assert server.notes["first"][MISSING] == server.told[MISSING] == {}
    assert attempts.lost == 1


def test_since_when_a_site_is_missing_outlives_the_server(tmp_path, server, store):
    leave(store, RunState.FAILED, "bonn: lost its connection to the server", missing={"bonn": 7.0})
    server.registered = {"ulm"}
    attempts = Attempts(tmp_path, server, lambda job: tmp_path, server.ask)
    attempts.take_up()
    assert list(attempts.missing()) == [("first", "bonn", 7.0)]
    server.registered = set(SITES)
    settled(server)


def test_a_run_tells_without_whom_it_goes_on_until_it_is_over(attempts, server, store):
    server.registered = {"ulm", "bonn"}
    leave(store, RunState.FAILED, "worms: lost its connection to the server", 0.3, THREE, quorum=2)
    attempts.ended("first", None)
    settled(server)
    assert missing(attempts) == {("first", "worms")}
    assert server.told[MISSING].keys() == {"worms"}
    begun = CurrentAttempt(store, Attempt("job-1", THREE, 0.3, quorum=2))
    assert missing(attempts) == {("first", "worms")}
    begun.end(RunState.FINISHED, None)
    assert missing(attempts) == set()


def test_a_run_that_was_given_up_misses_nobody(attempts, server, store):
    leave(store, RunState.FAILED, "bonn: lost its connection to the server", patience=0.3)
    server.registered = {"ulm"}
    attempts.ended("first", None)
    settled(server)
    assert missing(attempts) == set()


def test_a_run_that_an_admin_removes_while_it_waits_misses_nobody(attempts, server, store):
    leave(store, RunState.FAILED, "bonn: lost its connection to the server")
    server.registered = {"ulm"}
    attempts.ended("first", None)
    assert becomes({("first", "bonn")}, attempts)
    server.jobs.clear()
    settled(server)
    assert missing(attempts) == set()
    assert attempt.read(store).state is RunState.ABORTED


def test_all_attempts_bear_the_id_of_the_first(attempts, server, store):
    leave(store, RunState.FAILED, "bonn: lost its connection to the server")
    attempts.ended("first", None)
    settled(server)
    assert CurrentAttempt(store, Attempt("job-1", SITES, 20.0)).run_id == "first"
    assert (attempt.read(store).job, attempt.read(store).run_id) == ("job-1", "first")


def gone_on_without_worms(server, store, **more):
    """An attempt that was lost after the run had gone on without worms."""
    server.registered = set(THREE)
    leave(
        store, RunState.FAILED, "ulm: the job process ended", 5.0, SITES, quorum=2, absent=("worms",), **more
    )


def test_who_is_back_when_the_next_attempt_begins_joins(attempts, server, store):
    gone_on_without_worms(server, store)
    attempts.ended("first", None)
    settled(server)
    assert server.taking_part == THREE
    begun = attempt.read(store)
    assert (begun.sites, begun.absent, begun.joining) == (THREE, (), ("worms",))


def test_who_is_not_free_yet_does_not_join(attempts, server, store):
    gone_on_without_worms(server, store)
    server.registered = set(SITES)
    attempts.ended("first", None)
    settled(server)
    assert server.taking_part == SITES
    assert attempt.read(store).absent == ("worms",)


def test_the_attempt_under_way_hears_of_who_is_back(attempts, server, store):
    leave(store, RunState.RUNNING, None, 5.0, SITES, quorum=2, absent=("worms",))
    attempts.registered()
    assert CurrentAttempt(store, attempt.read(store)).back == ("worms",)


def test_who_is_refused_by_its_own_door_keeps_nobody_from_going_on(attempts, server, store):
    gone_on_without_worms(server, store)
    server.cannot_begin, server.refused = 2, {"worms": "a person at this site denied it"}
    attempts.ended("first", None)
    assert GIVEN_UP not in settled(server)
    assert server.taking_part == SITES
    assert attempt.read(store).absent == ("worms",)
    assert server.jobs == {"first", "job-1", "job-2", "job-3"}


def test_a_refusal_of_another_site_is_still_the_end(attempts, server, store):
    gone_on_without_worms(server, store)
    server.cannot_begin, server.refused = 1, {"worms": "denied", "ulm": "denied"}
    attempts.ended("first", None)
    assert "ulm: denied" in settled(server)[GIVEN_UP]
    assert server.jobs == {"first", "job-1"}


def test_who_tries_twice_in_vain_joins_when_it_has_logged_in_again(attempts, server, store):
    for _ in range(2):
        gone_on_without_worms(server, store)
        attempts.ended("first", None)
        settled(server)
        attempts.started("first")
    gone_on_without_worms(server, store)
    attempts.ended("first", None)
    settled(server)
    assert server.taking_part == SITES
    attempts.started("first")
    server.logins["worms"] = "another login"
    gone_on_without_worms(server, store)
    attempts.ended("first", None)
    settled(server)
    assert server.taking_part == THREE


def test_an_attempt_that_is_lost_while_a_site_joins_leaves_that_out(attempts, server, store):
    server.registered = set(SITES)
    leave(store, RunState.FAILED, "worms: not linked", 5.0, THREE, quorum=2, joining=("worms",))
    attempts.ended("first", None)
    settled(server)
    assert server.taking_part == SITES
    assert attempt.read(store).absent == ("worms",)


def test_a_run_with_other_sites_begins_where_the_one_is_that_it_continues(tmp_path, server, app, store):
    Attempts(tmp_path, server, lambda job: app, server.ask).started("first")
    leave(store, RunState.ABORTED, began_at=300, fruitless=3)
    changed = tmp_path / "second" / "app_server"
    asked = order.order(("bonn", "worms"), None, on_loss="continue", quorum=2)
    order.write(replace(asked, continues=order.read(app).run), changed)
    (other := store_of(tmp_path, changed)).mkdir(parents=True)
    Attempts(tmp_path, server, lambda job: changed, server.ask).started("second")
    begun = attempt.read(other)
    assert (begun.sites, begun.joining, begun.absent) == (("bonn", "worms"), ("worms",), ())
    assert (begun.began_at, begun.fruitless, begun.quorum) == (300, 0, 2)
    assert begun.members == (Members(0, SITES),)
    assert server.notes == {}
