"""Whatever goes wrong ends in bounded time, with a message that names the site and the cause.

What a run outlives unless it says `on_loss: fail` is in test_resumed_runs.py.
"""

import json
import os
import re
import signal
import socket
import time

import pytest
import yaml
from command_mesh import PEER_TIMEOUT, SITES, finished, nothing_runs, running
from running_mesh import wait_until

from flaremesh.deploy.runs.session import connect
from flaremesh.deploy.targets.base import DeployError
from flaremesh.deploy.targets.local import LocalTarget
from flaremesh.provision.kits import provision
from flaremesh.topology.load import load

END_SECONDS = PEER_TIMEOUT + 10


@pytest.fixture(autouse=True)
def _everybody_runs(mesh):
    up = mesh.call("up")
    assert up.returncode == 0, up.stderr


def kill(mesh, name):
    """As the out-of-memory killer or a lost machine does it."""
    for process in mesh.processes(str(mesh.folder / "local" / name)):
        process.kill()


def result_of(mesh, run_id):
    return json.loads((mesh.folder / "runs" / run_id / "result.json").read_text())


def test_a_site_that_is_killed_fails_the_run_by_its_name(mesh):
    run = mesh.start_endless(on_loss="fail")
    run_id = running(run)
    kill(mesh, "bonn")
    killed = time.monotonic()
    ended = finished(run)
    assert time.monotonic() - killed < END_SECONDS
    assert ended.returncode == 1
    assert "bonn" in ended.stderr.splitlines()[-1]
    assert result_of(mesh, run_id)["outcome"] == "failed"
    wait_until(lambda: nothing_runs(mesh, run_id), 20)


def test_a_job_process_that_is_killed_fails_the_run_by_its_name(mesh):
    run = mesh.start_endless(on_loss="fail")
    run_id = running(run)
    (process,) = (p for p in mesh.processes(run_id) if p.ppid() == mesh.process("bonn").pid)
    process.kill()
    killed = time.monotonic()
    ended = finished(run)
    assert time.monotonic() - killed < END_SECONDS
    assert ended.returncode == 1
    assert "bonn" in ended.stderr.splitlines()[-1]


def test_a_job_process_that_is_killed_before_the_run_begins_fails_it_by_its_name(mesh):
    run = mesh.start_endless(on_loss="fail")
    parent = mesh.process("bonn")
    wait_until(parent.children, 30)
    parent.children()[0].kill()
    ended = finished(run)
    assert ended.returncode == 1
    assert "bonn" in ended.stderr.splitlines()[-1]


def test_a_server_that_is_killed_fails_the_run(mesh):
    run = mesh.start_endless(on_loss="fail")
    run_id = running(run)
    kill(mesh, "server")
    killed = time.monotonic()
    ended = finished(run)
    assert time.monotonic() - killed < END_SECONDS
    assert ended.returncode == 1
    assert "the server does not answer" in ended.stderr.splitlines()[-1]
    assert nothing_runs(mesh, run_id)


def test_a_site_that_is_down_is_named_before_a_run_is_submitted(mesh):
    kill(mesh, "bonn")
    ended = mesh.call("run")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: not ready: bonn.")
    assert mesh.status()["runs"] == []


def test_an_exception_in_user_code_fails_the_run_with_the_site_and_the_cause(mesh):
    problem = {"path": "faulty.Faulty", "args": {"at": "aachen", "after": 5, "fault": "raise"}}
    ended = mesh.call("run", "--json", file=mesh.topology("dgd", problem, stepsize=0.1))
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["seconds"] < PEER_TIMEOUT
    assert ended.stderr.splitlines()[-1].startswith("Error: aachen: ")
    assert ended.stderr.splitlines()[-1].endswith("FileNotFoundError: patients.csv is gone")


def test_a_loss_that_is_nan_fails_the_run_with_the_site_and_the_iteration(mesh):
    problem = {"path": "faulty.Faulty", "args": {"at": "heidelberg", "after": 5, "fault": "nan"}}
    ended = mesh.call("run", file=mesh.topology("dgd", problem, stepsize=0.1))
    assert ended.returncode == 1
    assert "heidelberg" in ended.stderr.splitlines()[-1]
    assert "iteration 5" in ended.stderr.splitlines()[-1]


def test_ctrl_c_leaves_nothing_of_a_run_running_and_the_mesh_usable(mesh):
    run = mesh.start_endless()
    run_id = running(run)
    run.send_signal(signal.SIGINT)
    assert finished(run).returncode == 130
    assert nothing_runs(mesh, run_id)
    assert result_of(mesh, run_id)["outcome"] == "aborted"
    assert mesh.run()["outcome"] == "finished"


def test_a_run_that_another_admin_aborts_ends_with_the_reason_and_as_a_failure(mesh):
    run = mesh.start_endless()
    run_id = running(run)
    with connect(load(mesh.file), mesh.folder) as session:
        assert session.abort(run_id, END_SECONDS)
    ended = finished(run)
    assert ended.returncode == 1
    assert "another admin" in ended.stderr.splitlines()[-1]
    assert result_of(mesh, run_id)["outcome"] == "aborted"


@pytest.mark.parametrize("whose", ["server", "meeting point"])
def test_a_port_in_use_is_reported_with_its_user(make_mesh, whose):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        mesh = make_mesh("late", port if whose == "server" else None)
        if whose == "meeting point":
            mesh.hide(port)
        ended = mesh.call("up")
    assert ended.returncode == 1
    assert f"the {whose}'s port {port} cannot be used" in ended.stderr
    assert f"(pid {os.getpid()})" in ended.stderr


def test_a_site_that_dies_while_it_starts_is_named_and_takes_the_rest_down(make_mesh):
    mesh = make_mesh("broken")
    topology = load(mesh.file)
    provision(topology, mesh.folder)
    (mesh.folder / "kits/bonn/startup/fed_client.json").write_text("{")
    with pytest.raises(DeployError, match=r"^bonn stopped while it was starting"):
        LocalTarget(topology, mesh.folder).up(60)
    assert nothing_runs(mesh)


def test_ctrl_c_while_the_mesh_starts_stops_what_was_started(make_mesh):
    mesh = make_mesh("hesitant")
    up = mesh.start("up")
    wait_until(lambda: len(mesh.processes()) == 1 + len(SITES), 60)
    up.send_signal(signal.SIGINT)
    assert finished(up).returncode != 0
    assert nothing_runs(mesh)


def test_a_wrong_topology_file_is_a_wrong_usage(make_mesh):
    mesh = make_mesh("wrong")
    ended = mesh.call("run", file=mesh.topology("consensus", stepsize=-1))
    assert ended.returncode == 2
    assert "run.stepsize" in ended.stderr


def test_a_class_that_the_kits_do_not_allow_is_not_even_imported(mesh):
    file = mesh.topology("consensus", {"path": "subprocess.Popen"})
    document = yaml.safe_load(file.read_text())
    document["code"]["packages"].append("subprocess")  # of this file only: the kits were made without it
    file.write_text(yaml.safe_dump(document))
    ended = mesh.call("run", file=file)
    assert ended.returncode == 1
    told = re.search(r"Error: (.*): the kit does not allow subprocess.Popen", ended.stderr)
    assert told, ended.stderr
    assert set(told[1].split(", ")) == set(SITES)
