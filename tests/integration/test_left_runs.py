"""A run goes on without the command that submitted it, and whoever has an admin's kit comes back to it."""

import json
import os
import pty
import shutil
import signal
import threading

import pytest
from command_mesh import ENDLESS, UNHURRIED, Mesh, finished, nothing_runs, running
from running_mesh import wait_until


@pytest.fixture
def left(mesh: Mesh) -> str:
    """The id of a run that goes on without a command, and is ended after the test."""
    ended = mesh.call("run", "--detach", "--name", "left", file=mesh.topology(**ENDLESS, problem=UNHURRIED))
    assert ended.returncode == 0, ended.stderr
    run_id = ended.stdout.strip()
    assert f"flaremesh attach {ended.args[4]} {run_id}" in ended.stderr
    return run_id


def listed(mesh: Mesh, run_id: str) -> dict:
    (run,) = (run for run in json.loads(mesh.call("runs", "--json").stdout) if run["run_id"] == run_id)
    return run


def test_a_run_that_is_left_finishes_and_is_gathered_by_whoever_comes_back(mesh):
    file = mesh.topology("dgd", UNHURRIED, stepsize=0.1, iterations=2000)
    ended = mesh.call("run", "--detach", "--json", "--name", "left", file=file)
    assert ended.returncode == 0, ended.stderr
    run_id = json.loads(ended.stdout)["run_id"]
    wait_until(lambda: mesh.iterates("bonn", run_id), 30)
    wait_until(lambda: listed(mesh, run_id)["state"] == "running", 30)
    both = [mesh.start("attach", run_id[:8], "--json") for _ in range(2)]
    for attached in map(finished, both):
        assert attached.returncode == 0, attached.stderr
        assert json.loads(attached.stdout)["iterations"] == 2000
    folder = mesh.folder / "runs" / run_id
    assert (folder / "bonn" / "model.safetensors").is_file()
    gathered = json.loads((folder / "result.json").read_text())
    assert (gathered["run_id"], gathered["name"], gathered["outcome"]) == (run_id, "left", "finished")
    wait_until(lambda: listed(mesh, run_id)["state"] == "finished", 60)  # NVFlare ends a job seconds later
    # from a machine that has nothing but the kit and the topology file
    shutil.rmtree(folder)
    assert mesh.call("attach").returncode == 0
    again = json.loads((folder / "result.json").read_text())
    assert again["iterations"] == 2000
    assert again["sites"] == gathered["sites"]
    unchanged = mesh.call("abort", run_id)
    assert (unchanged.returncode, unchanged.stdout) == (0, f"The run {run_id} has ended before: finished.\n")
    nothing_left = mesh.call("resume", run_id)
    assert nothing_left.returncode == 2
    assert f"the run {run_id} has finished" in nothing_left.stderr


@pytest.mark.full
def test_a_run_that_is_left_is_aborted_by_id_and_a_second_time_nothing_happens(mesh, left):
    attached = mesh.start("attach", left)
    assert running(attached) == left
    attached.send_signal(signal.SIGINT)
    told = finished(attached)
    assert told.returncode == 130
    assert f"The run {left} goes on" in told.stderr
    assert listed(mesh, left)["state"] == "running"
    first, second = (mesh.call("abort", left[:8]) for _ in range(2))
    assert (first.returncode, first.stdout) == (0, f"The run {left} is aborted.\n")
    assert (second.returncode, second.stdout) == (0, f"The run {left} has ended before: aborted.\n")
    assert nothing_runs(mesh, left)
    assert listed(mesh, left)["state"] == "aborted"


def test_a_run_that_waits_for_a_site_is_aborted_for_good(mesh):
    file = mesh.topology(**ENDLESS, problem=UNHURRIED, on_loss="wait", checkpoint={"every": 50})
    run_id = mesh.call("run", "--detach", file=file).stdout.strip()
    wait_until(lambda: mesh.iterates("bonn", run_id), 60)  # its neighbours notice, and need no timeout
    wait_until(lambda: listed(mesh, run_id)["iteration"], 60)
    site = mesh.process("bonn")
    try:
        for process in (*site.children(recursive=True), site):
            process.kill()
        wait_until(lambda: "waits for bonn" in listed(mesh, run_id)["why"], 60)
        assert listed(mesh, run_id)["state"] == "waiting"
        for command in (("status",), ("top", "--once")):
            assert f"bonn has been missing from run {run_id}" in mesh.call(*command).stdout
        aborted = mesh.call("abort", run_id)
    finally:
        assert mesh.call("up").returncode == 0
    assert (aborted.returncode, aborted.stdout) == (0, f"The run {run_id} is aborted.\n")
    assert listed(mesh, run_id)["state"] == "aborted"
    assert mesh.run()["outcome"] == "finished"
    again = mesh.call("abort", run_id)
    assert (again.returncode, again.stdout) == (0, f"The run {run_id} has ended before: aborted.\n")


def read_into(shown: bytearray, terminal: int) -> None:
    while True:
        shown += os.read(terminal, 4096)


def test_ctrl_c_on_a_terminal_asks_and_the_run_may_be_left(mesh):
    terminal, command_side = pty.openpty()
    file = mesh.topology(**ENDLESS, problem=UNHURRIED)
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), command_side)
    run = mesh.start("run", "--name", "asked", file=file, **streams)

    def asked() -> list[str]:
        told = json.loads(mesh.call("runs", "--json").stdout)
        return [one["run_id"] for one in told if one["name"] == "asked" and one["iteration"]]

    shown = bytearray()
    threading.Thread(target=read_into, args=(shown, terminal), daemon=True).start()
    wait_until(asked, 60)
    run.send_signal(signal.SIGINT)
    wait_until(lambda: b"Leave the run going?" in shown, 30)
    os.write(terminal, b"y\n")
    assert run.wait(30) == 130
    (run_id,) = asked()
    assert listed(mesh, run_id)["state"] == "running"
    assert mesh.call("abort", run_id).returncode == 0


@pytest.mark.parametrize("command", ["attach", "abort", "resume"])
def test_a_run_that_the_server_does_not_know_is_named(mesh, command):
    ended = mesh.call(command, "no-such-run")
    assert ended.returncode == 2
    assert "the server has no run no-such-run" in ended.stderr


@pytest.mark.parametrize("arguments", [("runs",), ("attach",), ("abort", "any"), ("resume", "any")])
def test_without_a_server_each_command_says_so(make_mesh, arguments):
    mesh = make_mesh("quiet")
    assert mesh.call("provision").returncode == 0
    ended = mesh.call(*arguments)
    assert ended.returncode == 1
    assert "no server answers" in ended.stderr
