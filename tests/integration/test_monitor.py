"""`flaremesh monitor` and `flaremesh top` on a mesh of real processes."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest
from command_mesh import SITES, Mesh, finished
from running_mesh import wait_until

from flaremesh.deploy.watch.monitor import FOLDER
from ports import free_port
from programs import program
from promql import Prometheus

pytestmark = pytest.mark.timeout(300)

PARTICIPANTS = {"server", *SITES}


class Monitor:
    """A `flaremesh monitor` that has said where Prometheus is."""

    def __init__(self, command: subprocess.Popen[str], port: int):
        self.command = command
        self.prometheus = Prometheus(f"http://127.0.0.1:{port}")
        assert command.stdout
        self.said = ""
        while "Ctrl-C ends this." not in self.said:
            line = command.stdout.readline()
            assert line, finished(command).stderr
            self.said += line

    def sites(self, expression: str) -> dict[str, float]:
        return {sample.labels["site"]: sample.value for sample in self.prometheus.query(expression)}


def start(mesh: Mesh, port: int) -> subprocess.Popen[str]:
    options = ("--prometheus-port", str(port), "--port", str(free_port()))
    return mesh.start("monitor", *options)


@contextmanager
def monitored(mesh: Mesh) -> Iterator[Monitor]:
    """Ends it with Ctrl-C, and finds it well and nothing left."""
    program("prometheus")
    port = free_port()
    monitor = Monitor(start(mesh, port), port)
    yield monitor
    monitor.command.send_signal(signal.SIGINT)
    ended = finished(monitor.command)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert not servers(mesh)


def servers(mesh: Mesh) -> list[psutil.Process]:
    """Whatever serves the data of the mesh."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(mesh.folder / FOLDER) in argument for argument in process.info["cmdline"] or ())
    ]


def test_a_run_is_seen_at_all_sites_with_the_labels_and_the_rules(mesh):
    with monitored(mesh) as monitor, mesh.endless() as run_id:
        wait_until(lambda: monitor.sites("up") == dict.fromkeys(PARTICIPANTS, 1.0), 60)
        running_at = f'flaremesh_run_info{{run_id="{run_id}", job="flaremesh", mesh="ring"}}'
        wait_until(lambda: monitor.sites(running_at) == dict.fromkeys(SITES, 1.0), 60)
        wait_until(lambda: monitor.prometheus.query("mesh:flaremesh_consensus_distance:norm"), 60)


def test_what_was_recorded_is_there_the_next_time(mesh):
    with monitored(mesh) as monitor:
        wait_until(lambda: monitor.sites("up").keys() == PARTICIPANTS, 60)
        (before,) = monitor.prometheus.query('min(timestamp(up{site="server"}))')
    with monitored(mesh) as monitor:
        found = monitor.prometheus.scraped('up{site="server"}[1h]')
        assert min(series.times[0] for series in found) <= before.value


def test_without_a_grafana_it_says_why_and_what_to_do(mesh, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with monitored(mesh) as monitor:
        pass
    assert "No Grafana: " in monitor.said
    assert "`flaremesh top`" in monitor.said


@pytest.mark.full
def test_a_site_that_goes_and_comes_back_is_followed(make_mesh):
    mesh = make_mesh("followed")
    assert mesh.call("up").returncode == 0
    with monitored(mesh) as monitor:
        wait_until(lambda: monitor.sites("up").get("bonn") == 1, 60)
        mesh.process("bonn").kill()
        wait_until(lambda: monitor.sites("up").get("bonn") == 0, 60)
        assert mesh.call("up").returncode == 0
        wait_until(lambda: monitor.sites("up") == dict.fromkeys(PARTICIPANTS, 1.0), 60)


def test_a_second_monitor_of_the_mesh_is_refused(mesh):
    with monitored(mesh) as monitor:
        second = finished(start(mesh, free_port()))
        assert second.returncode == 1
        assert f"ring is monitored already, by process {monitor.command.pid}" in second.stderr


def test_a_prometheus_that_dies_ends_it_with_the_last_lines_of_its_log(mesh):
    program("prometheus")
    port = free_port()
    monitor = Monitor(start(mesh, port), port)
    (prometheus,) = servers(mesh)
    prometheus.kill()
    ended = finished(monitor.command)
    assert ended.returncode == 1
    assert "Error: Prometheus ended. Last lines of" in ended.stderr
    assert "Server is ready" in ended.stderr


def test_a_port_that_is_taken_is_named(mesh):
    ended = mesh.call("monitor", "--prometheus-port", str(mesh.port))
    assert ended.returncode == 1
    assert f"port {mesh.port} cannot be used" in ended.stderr
    assert "--prometheus-port" in ended.stderr


def test_a_mesh_that_is_down_is_refused(make_mesh):
    ended = make_mesh("idle").call("monitor", "--prometheus-port", str(free_port()))
    assert ended.returncode == 1
    assert "nothing of idle runs: `flaremesh up` starts it" in ended.stderr


def look(mesh: Mesh):
    ended = mesh.call("top", "--once", "--json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_top_shows_a_run_at_all_sites_without_prometheus(mesh):
    with mesh.endless() as run_id:
        wait_until(lambda: all(site["iteration"] for site in look(mesh)["runs"][0]["sites"]), 60)
        view = look(mesh)
        page = mesh.call("top", "--once").stdout
    (shown,) = view["runs"]
    assert (shown["run_id"], shown["algorithm"], shown["state"]) == (run_id, "dgd", "running")
    assert [site["name"] for site in shown["sites"]] == list(SITES)
    for site in shown["sites"]:
        assert (site["state"], site["ready"], site["links"]) == ("running", True, {"direct": 2})
        assert site["iterations_per_second"] > 0
        assert site["sent_bytes_per_second"] > 0
        assert site["waits_for"] in SITES
        assert 0.5 < sum(site["shares"].values()) <= 1.001
    assert shown["consensus"]["predicted_contraction"] < 1
    assert (view["server"]["registered_sites"], view["server"]["running_jobs"]) == (3, 1)
    assert all(f"{site}" in page for site in SITES)


def test_top_says_how_to_start_what_is_down(make_mesh):
    idle = make_mesh("idle")
    page = idle.call("top", "--once")
    assert page.returncode == 1
    assert f"Start it: flaremesh up {idle.file}" in page.stdout.replace("\n", " ")


def test_top_follows_a_mesh_until_ctrl_c_and_leaves_the_last_page(mesh):
    ours, its = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "flaremesh.cli.main",
        "top",
        str(mesh.file),
        "--output",
        str(mesh.folder),
    ]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(command, stdin=its, stdout=its, env=environment) as top:
        os.close(its)
        said = ""
        while said.count("heidelberg") < 2:  # it looks again and again
            said += os.read(ours, 65536).decode()
        top.send_signal(signal.SIGINT)
        said = ""
        with suppress(OSError):  # the terminal is gone with the program
            while part := os.read(ours, 65536):
                said += part.decode()
    os.close(ours)
    assert top.returncode == 0
    left = said.partition("\x1b[?1049l")[2]  # back on the terminal's own page
    assert all(site in left for site in SITES)
