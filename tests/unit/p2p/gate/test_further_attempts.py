"""Further attempts of a run at a site's door: the same signed app, once more, as another job."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from gate_site import JOB

from flaremesh.metrics.names import RunState
from flaremesh.p2p.gate import audit, deployer, egress, order
from flaremesh.p2p.gate.approval import Approvals
from flaremesh.p2p.gate.commands import deny
from flaremesh.p2p.gate.deployer import SiteDoor

SECOND = "0c5e8a3c-1f4e-4a7e-8a65-7f2f0d3e9b21"
THIRD = "1d6f9b4e-2a5f-4b8f-9c76-8a3a1e4f0c32"
DELIVERIES = [f"{number}c5e8a3c-1f4e-4a7e-8a65-7f2f0d3e9b21" for number in range(1, 4)]
PROBLEM = "path: flaremesh.problems.consensus.Consensus\nargs: {a: 1}\n"


class InThreeWeeks(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(days=21)


@pytest.fixture
def app(app: Path) -> Path:
    """The app of a run that waits for what it loses."""
    order.write(replace(order.read(app), on_loss="wait"), app)
    return app


def begin(site, archive: bytes, job: str = JOB) -> str | None:
    """Let a job in and start it; returns why not."""
    door = SiteDoor()
    admitted = door.admit(site.workspace, job, archive)
    return admitted if isinstance(admitted, str) else door.begin(site.workspace, job)


def test_an_attempt_is_let_in_weeks_later_and_has_a_line_of_its_own_in_the_log(
    site, app, submit, monkeypatch
):
    assert begin(site, submit(app)) is None
    monkeypatch.setattr(deployer, "datetime", InThreeWeeks)
    assert begin(site, submit(app), SECOND) is None
    let_in, attempt = audit.entries(site.workspace)
    assert let_in["event"] == "let in"
    assert (attempt["event"], attempt["job"], attempt["attempt"]) == ("attempt", SECOND, 2)
    assert attempt["run"] == let_in["request"]["run"]


def test_what_the_policy_and_a_person_allowed_a_run_holds_for_its_attempts(site, app, submit):
    (site.workspace / "policy.yaml").write_text("approval: required\n")
    begin(site, submit(app))
    Approvals(site.workspace).approve(order.read(app).run, "ann")
    assert begin(site, submit(app)) is None
    (site.workspace / "policy.yaml").write_text("approval: required\nalgorithms: [dgd]\n")
    assert begin(site, submit(app), SECOND) is None


def test_another_app_under_the_id_of_a_run_is_no_attempt(site, app, submit):
    begin(site, submit(app))
    (app / "config/problem.yaml").write_text(PROBLEM)
    order.write(order.read(app), app)
    assert "another job has begun here under this run's id" in begin(site, submit(app), SECOND)


def test_a_run_that_fails_with_what_it_loses_has_no_attempts(site, app, submit):
    order.write(replace(order.read(app), on_loss="fail"), app)
    begin(site, submit(app))
    assert "this run has begun before" in begin(site, submit(app), SECOND)


def test_a_run_that_has_finished_here_delivers_again_a_few_times(site, app, submit):
    for job in (JOB, *DELIVERIES):
        assert begin(site, submit(app), job) is None
        egress.write(site.workspace / job, egress.Egress(RunState.FINISHED))
    assert "this run has finished here, and 3 attempts have followed" in begin(site, submit(app), SECOND)
    assert list(audit.entries(site.workspace))[-1]["event"] == "refused"


def test_a_run_that_a_person_denied_has_no_further_attempt(site, app, submit):
    begin(site, submit(app))
    run = order.read(app).run
    assert deny(site.workspace, run).startswith(f"{run} of lead@example.org is denied by")
    assert "a person at this site denied it" in begin(site, submit(app), SECOND)


def test_an_attempt_is_not_let_in_nor_begun_while_the_one_before_runs(site, app, submit):
    class Busy(SiteDoor):
        jobs = ()

        def running_jobs(self):
            return self.jobs

    begin(site, submit(app))
    door = Busy()
    door.admit(site.workspace, SECOND, submit(app))
    door.jobs = [JOB]
    assert "still runs here" in door.begin(site.workspace, SECOND)
    assert "still runs here" in door.admit(site.workspace, THIRD, submit(app))
