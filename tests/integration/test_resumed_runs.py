"""Runs that lose somebody go on from checkpoints, and end with the bits of the run that nobody disturbed."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from running_mesh import START_SECONDS, RunningMesh, running_mesh, wait_until

from flaremesh.deploy.runs.follow import follow, next_attempt
from flaremesh.deploy.runs.gather import gather
from flaremesh.deploy.runs.resume import resume
from flaremesh.deploy.runs.run import run
from flaremesh.deploy.runs.session import connect
from flaremesh.p2p.gate import egress
from flaremesh.p2p.outcome import RunResult
from flaremesh.p2p.progress import RunProgress
from flaremesh.provision.job import write_job
from flaremesh.provision.kits import provision
from flaremesh.topology.load import load
from undisturbed import left_behind

DIGITS = Path(__file__).parents[2] / "provision" / "digits-ring4.yaml"
CHECKPOINTED = {"on_loss": "wait", "checkpoint": {"every": 50}, "iterations": 1000, "evaluate_every": 100}
LOST_AT = 300
PLATEAU = {"metric": "accuracy", "iterations": 200}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    run = load(DIGITS).run
    # masks are others in each run, and so are the last bits of what comes out
    unmasked = {"privacy": {"masked_start": False}}
    options = type(run).model_validate(run.model_dump() | CHECKPOINTED | unmasked)
    with running_mesh(tmp_path_factory.mktemp("mesh"), DIGITS, run=options) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def undisturbed(mesh: RunningMesh) -> dict[str, Any]:
    return what_is_left(mesh, mesh.run("undisturbed"))


class Once:
    """Does something to a run once a site is far enough, and remembers the jobs of the run's attempts."""

    def __init__(self, site: str, iteration: int, do: Callable[[str], None]):
        self.jobs: list[str] = []
        self._site, self._iteration, self._do = site, iteration, do
        self._done = False

    def __call__(self, run_id: str, progress: RunProgress) -> None:
        if run_id not in self.jobs:
            self.jobs.append(run_id)
        site = progress.sites.get(self._site)
        if not self._done and site and site.iteration >= self._iteration:
            self._done = True
            self._do(run_id)


def what_is_left(mesh: RunningMesh, result: RunResult) -> dict[str, Any]:
    return left_behind(mesh.folder / "runs" / result.run_id, result.sites)


@pytest.mark.parametrize("participant", ["bonn", pytest.param("server", marks=pytest.mark.full)])
def test_a_killed_job_process_changes_no_bit_of_the_result(mesh, undisturbed, participant):
    lost = Once("bonn", LOST_AT, lambda run_id: mesh.job_process(participant, run_id).kill())
    disturbed = mesh.run("disturbed", lost)
    assert len(lost.jobs) == 2
    assert what_is_left(mesh, disturbed) == undisturbed


@pytest.mark.full
def test_a_site_that_comes_back_with_a_renewed_certificate_changes_no_bit_of_the_result(mesh, undisturbed):
    def renew(told: str) -> None:
        assert provision(mesh.topology, mesh.folder, renew=["bonn"]).changed == ("bonn",)
        mesh.target.up(START_SECONDS)

    lost = Once("bonn", LOST_AT, lambda run_id: kill(mesh, "bonn"))
    disturbed = mesh.run("disturbed", lost, renew)
    assert len(lost.jobs) == 2
    assert what_is_left(mesh, disturbed) == undisturbed


@pytest.mark.full
def test_a_site_that_is_started_again_while_its_job_goes_on_changes_no_bit_of_the_result(mesh, undisturbed):
    def start_again(run_id: str) -> None:
        kill(mesh, "bonn", with_jobs=False)
        mesh.target.up(START_SECONDS)

    lost = Once("bonn", LOST_AT, start_again)
    disturbed = mesh.run("disturbed", lost)
    assert len(lost.jobs) == 2
    assert what_is_left(mesh, disturbed) == undisturbed


@pytest.mark.full
def test_a_run_that_waits_for_a_site_is_ended_by_ctrl_c(mesh):
    stop, told = threading.Event(), []

    def warn(text: str) -> None:
        told.append(text)
        stop.set()

    lose = Once("bonn", LOST_AT, lambda run_id: kill(mesh, "bonn"))
    result = run(mesh.topology, mesh.target, mesh.folder, "given-up", lose, stop, warn)
    assert told[0].startswith("bonn: ")
    assert result.outcome == "aborted"


def test_a_run_that_was_aborted_and_is_resumed_has_the_bits_of_the_undisturbed_one(mesh, undisturbed):
    stop, ignored = threading.Event(), lambda *_: None
    far = Once("bonn", LOST_AT, lambda run_id: stop.set())
    aborted = run(mesh.topology, mesh.target, mesh.folder, "aborted", far, stop, ignored)
    assert aborted.outcome == "aborted"
    never = threading.Event()
    resumed = resume(mesh.topology, mesh.target, mesh.folder, aborted.run_id, ignored, never, ignored)
    assert (resumed.outcome, resumed.run_id) == ("finished", aborted.run_id)
    assert what_is_left(mesh, resumed) == undisturbed


@pytest.mark.full
def test_a_run_that_ends_early_does_so_after_the_same_iteration_if_it_was_disturbed(mesh, monkeypatch):
    run = mesh.topology.run
    early = type(run).model_validate(run.model_dump() | {"until": {"plateau": PLATEAU}, "evaluate_every": 20})
    monkeypatch.setattr(mesh, "topology", mesh.topology.model_copy(update={"run": early}))
    straight = mesh.run("early")
    lost = Once("bonn", LOST_AT, lambda run_id: mesh.job_process("bonn", run_id).kill())
    disturbed = mesh.run("early-disturbed", lost)
    assert len(lost.jobs) == 2
    assert straight.ended
    assert disturbed.ended == straight.ended
    assert what_is_left(mesh, disturbed) == what_is_left(mesh, straight)


def kill(mesh: RunningMesh, participant: str, with_jobs: bool = True) -> None:
    """Its own process, and those of its jobs."""
    process = mesh.process(participant)
    parts = [process, *(process.children() if with_jobs else ())]
    for part in parts:
        part.kill()
    psutil.wait_procs(parts)


@pytest.mark.full
def test_a_stopped_server_that_is_started_again_goes_on_with_its_runs(mesh, undisturbed):
    job = submit(mesh, "stopped")
    wait_until(lambda: mesh.iteration("bonn", job) >= LOST_AT, 60)
    server = mesh.process("server")
    server.terminate()
    psutil.wait_procs([server])
    mesh.target.up(START_SECONDS)
    assert what_is_left(mesh, outcome(mesh, job)) == undisturbed


@pytest.mark.full
@pytest.mark.parametrize("links", ["direct", "relay"])  # the sites finish without the server, or wait for it
def test_a_killed_server_that_is_started_again_goes_on_with_its_runs(mesh, undisturbed, links):
    job = submit(mesh, f"disturbed-{links}", links=links)
    wait_until(lambda: mesh.iteration("bonn", job) >= LOST_AT, 60)
    kill(mesh, "server")
    mesh.target.up(START_SECONDS)
    assert what_is_left(mesh, outcome(mesh, job)) == undisturbed


@pytest.mark.full
def test_a_server_that_is_killed_before_its_process_of_the_run_is_up_begins_the_run_again(mesh, undisturbed):
    def kept() -> set[Path]:
        return {*(mesh.workspace("server") / "stores").glob("*/attempt.json")}

    earlier = kept()
    job = submit(mesh, "early")
    wait_until(mesh.process("server").children, 60)
    kill(mesh, "server")
    assert kept() <= earlier
    mesh.target.up(START_SECONDS)
    assert what_is_left(mesh, outcome(mesh, job)) == undisturbed


@pytest.mark.full
def test_a_site_that_is_killed_when_the_others_have_finished_changes_no_bit_of_the_result(mesh, undisturbed):
    job = submit(mesh, "late", checkpoint={"every": 500})
    wait_until(lambda: mesh.iteration("bonn", job) >= 600, 60)
    # bonn's disk takes its last checkpoint in once somebody reads this, so never
    (checkpoints,) = (
        store / "checkpoints"
        for store in (mesh.workspace("bonn") / "stores").iterdir()
        if (store / "checkpoints" / "500.json").exists()
    )
    os.mkfifo(checkpoints / "1000.safetensors.partial")
    for site in ("heidelberg", "aachen", "dresden"):
        wait_until(lambda site=site: egress.read(mesh.workspace(site) / job), 60)
    kill(mesh, "bonn")
    (checkpoints / "1000.safetensors.partial").unlink()
    mesh.target.up(START_SECONDS)
    assert what_is_left(mesh, outcome(mesh, job)) == undisturbed


def submit(mesh: RunningMesh, name: str, **options: Any) -> str:
    """Submit the mesh's run, and leave; returns its first job."""
    run = mesh.topology.run
    run = type(run).model_validate(run.model_dump() | options)
    with connect(mesh.topology, mesh.folder) as session:
        write_job(mesh.topology.model_copy(update={"run": run}), mesh.folder / name, name=name)
        return session.submit(mesh.folder / name)


def outcome(mesh: RunningMesh, job: str) -> RunResult:
    """What comes of a run in the attempt that is its last, gathered."""
    with connect(mesh.topology, mesh.folder) as session:
        while result := follow(session, job, lambda *_: None, threading.Event()):
            if not result.lost:
                break
            job = next_attempt(session, job, result, threading.Event())
            assert isinstance(job, str), job.reason
    assert result.outcome == "finished", result.reason
    (mesh.folder / "runs" / job).mkdir(parents=True)
    return gather(mesh.topology, mesh.target, mesh.folder / "runs" / job, "disturbed", result, lambda _: None)
