"""The agents in real processes: readiness, orderly stop, repair after a crash."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_mesh import START_SECONDS, RunningMesh, running_mesh, wait_until

from flaremesh.deploy.runs.session import connect
from flaremesh.p2p.agents.agent import AGENT_FILE
from flaremesh.provision.job import write_job

SITE = "bonn"

pytestmark = pytest.mark.timeout(300)

MISSED_SECONDS = 30.0
"""After that the server would miss a site that has not logged out."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    with running_mesh(tmp_path_factory.mktemp("mesh")) as mesh:
        yield mesh


@pytest.fixture(autouse=True)
def everybody_runs(mesh: RunningMesh) -> None:
    mesh.target.up(START_SECONDS)


@pytest.fixture
def endless_run(mesh: RunningMesh, everybody_runs: None, tmp_path: Path) -> Iterator[str]:
    """The id of a run that is in its iterations at every site."""
    run = mesh.topology.run.model_copy(update={"iterations": 10**7, "evaluate_every": 10**7})
    write_job(mesh.topology.model_copy(update={"run": run}), tmp_path / "job", name="endless")
    with connect(mesh.topology, mesh.folder) as session:
        run_id = session.submit(tmp_path / "job")
    for site in mesh.topology.sites:
        wait_until(lambda name=site.name: mesh.iteration(name, run_id), START_SECONDS)
    yield run_id
    with connect(mesh.topology, mesh.folder) as session:
        assert session.job(run_id).ended or session.abort(run_id, 30)


def test_everybody_is_ready_once_the_mesh_is_up(mesh):
    assert all(mesh.missing(name) == [] for name in ("server", SITE))
    assert mesh.metric("server", "registered_sites") == len(mesh.topology.sites)
    assert mesh.metric(SITE, "ready") == mesh.metric(SITE, "registered") == 1


def test_a_site_that_is_told_to_stop_logs_out_and_exits_with_0(mesh):
    site = mesh.process(SITE)
    site.terminate()
    left = len(mesh.topology.sites) - 1
    wait_until(lambda: mesh.metric("server", "registered_sites") == left, MISSED_SECONDS / 2)
    assert site.wait(timeout=15) == 0


def test_a_site_is_not_ready_before_it_is_registered(mesh):
    mesh.process(SITE).terminate()
    mesh.process(SITE).wait(timeout=15)
    (mesh.workspace(SITE) / AGENT_FILE).unlink()
    up = threading.Thread(target=mesh.target.up, args=[START_SECONDS])
    up.start()
    wait_until((mesh.workspace(SITE) / AGENT_FILE).exists, 15)
    assert mesh.get(SITE, "/readyz")[0] == 503
    assert mesh.missing(SITE) == ["not registered with the server"]
    assert mesh.get(SITE, "/healthz")[0] == 200
    up.join()
    assert mesh.get(SITE, "/readyz")[0] == 200


def test_a_server_that_is_told_to_stop_exits_with_0_although_sites_are_connected(mesh):
    server = mesh.process("server")
    server.terminate()
    assert server.wait(timeout=20) == 0
    wait_until(lambda: mesh.missing(SITE) == ["no connection to the server"], 10)
    assert mesh.target.up(START_SECONDS) == ["server"]


def test_a_job_that_a_crash_of_the_server_left_running_is_given_up(mesh, endless_run):
    server = mesh.process("server")
    server.kill()
    server.wait(timeout=10)
    assert mesh.target.up(START_SECONDS) == ["server"]
    with connect(mesh.topology, mesh.folder) as session:
        assert session.job(endless_run).status == "FINISHED:ABANDONED"
    # the sites learn with their next heartbeat that their part is over
    wait_until(lambda: mesh.metric(SITE, "running_jobs") == 0, 60)


def test_a_site_that_stops_in_mid_run_leaves_no_job_process_behind(mesh, endless_run):
    site, job = mesh.process(SITE), mesh.job_process(SITE, endless_run)
    site.terminate()
    assert site.wait(timeout=30) == 0
    assert not job.is_running()


def test_a_server_that_stops_in_mid_run_stores_that_it_aborted_the_run(mesh, endless_run):
    server = mesh.process("server")
    server.terminate()
    assert server.wait(timeout=40) == 0
    assert mesh.target.up(START_SECONDS) == ["server"]
    with connect(mesh.topology, mesh.folder) as session:
        assert session.job(endless_run).status == "FINISHED:ABORTED"


def test_a_run_whose_process_is_killed_has_failed(mesh, endless_run):
    (slot,) = mesh.slots(SITE, endless_run)
    mesh.job_process(SITE, endless_run).kill()
    wait_until(lambda: mesh.metric(SITE, "run_state", slot=slot, state="failed"), 5)
    with connect(mesh.topology, mesh.folder) as session:
        assert session.wait(endless_run, 30)
