"""Which runs an admin sees in the jobs that a server lists, and how one of them ends."""

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

from flaremesh.deploy.runs import follow
from flaremesh.deploy.runs.known import KnownRun, find, known_runs, run_lines
from flaremesh.deploy.runs.results import forget_result, gathered_result
from flaremesh.deploy.runs.resume import NotResumable, require_resumable
from flaremesh.deploy.runs.session import AdminSession, UnknownRun
from flaremesh.deploy.targets.base import DeployError
from flaremesh.metrics.names import RunState
from flaremesh.p2p.nvflare.admin import Unknown
from flaremesh.p2p.nvflare.jobs import ENDED_BY_ADMIN, Job, job_of
from flaremesh.p2p.outcome import RUN_RESULT, RunResult
from flaremesh.topology.load import load

RUNNING = Job("mine", "RUNNING", (), None)
LOST = replace(RUNNING, status="FINISHED:EXECUTION_EXCEPTION", lost="bonn: gone")


@dataclass
class Server:
    """An admin's client of a server with these jobs.

    Attributes:
        begins: the attempt that the server is just beginning when a run that waits is aborted.
    """

    listed: dict[str, Job]
    begins: dict[str, Job] = field(default_factory=dict)

    def jobs(self) -> dict[str, Job]:
        return self.listed

    def job(self, job_id: str) -> Job:
        if job_id not in self.listed:
            raise Unknown(job_id)
        return self.listed[job_id]

    def abort(self, job_id: str) -> None:
        job = self.listed[job_id]
        if self.begins:
            self.listed |= self.begins
            self.begins = {}
        elif job.goes_on:
            self.listed[job_id] = replace(job, status="FINISHED:ABORTED", given_up=ENDED_BY_ADMIN)
        elif not job.ended:
            self.listed[job_id] = replace(job, status="FINISHED:ABORTED")

    def sites(self) -> set[str]:
        return {"ulm"}

    def ask_job(self, job_id: str, topic: str) -> dict[str, object]:
        return {"state": "running", "sites": {"bonn": {"iteration": 7}, "ulm": {"iteration": 9}}}

    def download(self, job_id: str, name: str, most: int) -> None:
        return None


def session(jobs: dict[str, Job], begins: dict[str, Job] | None = None) -> AdminSession:
    return AdminSession(Server(jobs, begins or {}), ["bonn", "ulm"])


def attempts() -> dict[str, Job]:
    """A run of two attempts after another run; its second attempt runs."""
    return {
        "b-second": replace(RUNNING, cloned_from="b-first", submitted=3.0),
        "a-other": replace(RUNNING, status="FINISHED:COMPLETED", submitted=1.0),
        "b-first": replace(LOST, next_attempt="b-second", submitted=2.0),
    }


def test_the_attempts_of_a_run_are_one_run_with_the_id_of_the_first():
    other, run = known_runs(session(attempts()))
    assert (other.run_id, other.state) == ("a-other", "finished")
    assert (run.run_id, run.last, run.state) == ("b-first", "b-second", "running")


def test_a_run_that_an_admin_has_resumed_is_the_same_run():
    aborted = replace(RUNNING, status="FINISHED:ABORTED", next_attempt="b")
    (run,) = known_runs(session({"a": aborted, "b": replace(RUNNING, cloned_from="a", submitted=1.0)}))
    assert (run.run_id, run.last, run.state) == ("a", "b", RunState.RUNNING)


OUTLIVES = load(Path(__file__).parents[3] / "provision" / "digits-ring4.yaml").run.model_copy(
    update={"on_loss": "wait"}
)


@pytest.mark.parametrize(
    ("job", "on_loss", "missing", "why"),
    [
        (RUNNING, "wait", [], "goes on by itself"),
        (LOST, "wait", [], "goes on by itself"),
        (replace(RUNNING, status="FINISHED:COMPLETED"), "wait", [], "has finished"),
        (replace(RUNNING, status="FINISHED:ABORTED"), "fail", [], "keeps no checkpoints"),
        (replace(LOST, given_up="not there: bonn"), "wait", ["bonn"], "not there: bonn"),
    ],
)
def test_a_run_that_cannot_be_resumed_says_why(job, on_loss, missing, why):
    with pytest.raises(NotResumable, match=why):
        require_resumable(KnownRun({"a": job}), OUTLIVES.model_copy(update={"on_loss": on_loss}), missing)


@pytest.mark.parametrize(
    ("job", "on_loss", "missing"),
    [
        (replace(LOST, given_up="not there: bonn"), "wait", []),
        (replace(RUNNING, status="FINISHED:ABORTED"), "wait", []),
        (replace(RUNNING, status="FINISHED:ABANDONED"), "wait", []),
        (replace(RUNNING, status="FINISHED:EXECUTION_EXCEPTION"), "continue", ["bonn"]),
    ],
)
def test_a_run_that_has_ended_without_finishing_can_be_resumed(job, on_loss, missing):
    require_resumable(KnownRun({"a": job}), OUTLIVES.model_copy(update={"on_loss": on_loss}), missing)


def test_what_was_gathered_of_a_run_that_goes_on_is_gathered_anew(tmp_path):
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "topology.json").write_text("{}")
    (tmp_path / "bonn").mkdir()
    (tmp_path / "bonn" / "history.jsonl").write_text("")
    (tmp_path / "job").mkdir()
    forget_result(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job", "topology.json"]


def test_what_an_admin_cloned_is_another_run():
    jobs = {"a": replace(RUNNING, status="FINISHED:COMPLETED"), "b": replace(RUNNING, cloned_from="a")}
    assert [run.run_id for run in known_runs(session(jobs))] == ["a", "b"]


def test_jobs_that_name_each_other_as_their_origin_are_runs_all_the_same():
    jobs = {"a": replace(LOST, cloned_from="b"), "b": replace(LOST, cloned_from="a")}
    assert [run.run_id for run in known_runs(session(jobs))] == ["a"]


@pytest.mark.parametrize(
    ("status", "lost", "given_up", "state"),
    [
        ("SUBMITTED", None, None, "waiting"),
        ("FINISHED:ABORTED", None, None, "aborted"),
        ("FINISHED:CAN_NOT_SCHEDULE", None, None, "failed"),
        ("FINISHED:ABNORMAL", "server", None, "waiting"),
        ("FINISHED:ABNORMAL", "server", "not there: ulm", "failed"),
        ("NO:SUCH STATUS", None, None, "failed"),
    ],
)
def test_a_run_is_where_its_last_job_is(status, lost, given_up, state):
    job = replace(RUNNING, status=status, lost=lost, given_up=given_up)
    assert known_runs(session({"a": job}))[0].state == state


@pytest.mark.parametrize("prefix", ["b-f", "b-second", None])
def test_a_run_is_found_by_how_any_of_its_ids_begins_and_the_newest_without(prefix):
    assert find(session(attempts()), prefix).run_id == "b-first"


@pytest.mark.parametrize("prefix", ["c", "", "\x1b[2J"])
def test_a_run_that_is_not_there_is_named_in_printable_words(prefix):
    with pytest.raises(UnknownRun, match="the server has no run") as told:
        find(session(attempts()), prefix)
    assert str(told.value).isprintable()


def test_a_prefix_of_several_runs_is_refused():
    with pytest.raises(DeployError, match="may be any of 2 runs"):
        find(session({"ab": RUNNING, "ac": RUNNING}), "a")


def test_a_run_is_shown_with_what_it_waits_for_and_how_far_all_sites_are(tmp_path, monkeypatch):
    jobs = attempts() | {
        "c": replace(LOST, submitted=4.0, missing={"bonn": 5.0}),
        "d": replace(RUNNING, submitted=6.0, missing={"bonn": 5.0}),
    }
    monkeypatch.setattr("flaremesh.deploy.runs.known.connect", lambda *_: nullcontext(session(jobs)))
    target = SimpleNamespace(server=lambda: nullcontext(None))
    ended, running, waiting, without = run_lines(None, target, tmp_path)
    assert (ended.state, ended.why, ended.iteration) == ("finished", "", None)
    assert (running.state, running.iteration, running.attempts) == ("running", 7, ("b-first", "b-second"))
    assert (waiting.state, waiting.why) == ("waiting", "bonn: gone; waits for bonn")
    assert (without.state, without.why) == ("running", "without bonn")


def test_a_run_that_the_server_has_removed_is_known_where_it_was_gathered(tmp_path):
    for run_id in ("ab", "ac"):
        folder = tmp_path / "runs" / run_id
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(RUN_RESULT.json(RunResult(run_id, RunState.ABORTED)))
    assert gathered_result(tmp_path, "ac").run_id == "ac"
    assert [gathered_result(tmp_path, prefix) for prefix in ("a", "", "../runs/ac", "b")] == [None] * 4


def test_a_run_that_is_aborted_while_it_waits_stays_listed_as_one():
    jobs = {"a": replace(LOST, next_attempt="b"), "b": replace(LOST, cloned_from="a")}
    result = follow.abort(session(jobs), "b")
    assert (result.outcome, result.lost) == ("aborted", False)
    (run,) = known_runs(session(jobs))
    assert (run.run_id, run.state) == ("a", "aborted")


def test_who_follows_a_run_that_is_aborted_while_it_waits_hears_of_it():
    lost = RunResult("a", RunState.FAILED, reason="bonn: gone", lost=True)
    jobs = {"a": replace(LOST, given_up=ENDED_BY_ADMIN)}
    result = follow.next_attempt(session(jobs), "a", lost, Event())
    assert (result.outcome, result.reason, result.lost) == ("aborted", follow.ABORTED_ELSEWHERE, False)


def test_an_attempt_that_begins_while_its_run_is_aborted_is_aborted():
    jobs = {"a": LOST}
    follow.abort(session(jobs, {"b": replace(RUNNING, cloned_from="a")}), "a")
    assert jobs["b"].status == "FINISHED:ABORTED"


def test_to_abort_what_has_ended_changes_nothing():
    jobs = {"a": replace(RUNNING, status="FINISHED:COMPLETED")}
    before = dict(jobs)
    follow.abort(session(jobs), "a")
    assert jobs == before


@pytest.mark.parametrize("told", ["1", -1.0, 1e300, float("nan"), None, [1]])
def test_a_time_that_is_none_is_unknown(told):
    assert job_of({"status": "RUNNING", "submit_time": told}).submitted == 0.0
