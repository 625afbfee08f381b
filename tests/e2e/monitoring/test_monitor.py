"""`flaremesh monitor` on the cluster: installs or keeps the release, and opens ways to it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml
from cluster import kubectl, pod
from watching import NAMESPACE, Watching

from flaremesh.provision.kits import provision
from flaremesh.topology.load import load
from ports import free_port

pytestmark = pytest.mark.timeout(600)


def command(file: Path, folder: Path, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "flaremesh.cli.main", "monitor", str(file), "--output", str(folder)),
        *("--target", "kubernetes", "--prometheus-port", str(port), "--port", str(free_port())),
    ]


@contextmanager
def monitored(mesh) -> Iterator[tuple[subprocess.Popen[str], Watching]]:
    port = free_port()
    arguments = command(mesh.file, mesh.folder, port)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as monitor:
        assert monitor.stdout
        assert monitor.stderr
        try:
            opened = any("Ctrl-C ends this." in line for line in monitor.stdout)
            assert opened, monitor.stderr.read()
            yield monitor, Watching(f"http://127.0.0.1:{port}")
        finally:
            monitor.terminate()


def test_it_opens_a_way_to_the_release_that_stays_as_its_admin_made_it(mesh, prometheus):
    before = pod(NAMESPACE, "monitoring-prometheus-0")
    with monitored(mesh) as (monitor, opened):
        opened.scrapes(set(mesh.releases))
        assert opened.rules()
        monitor.send_signal(signal.SIGINT)
    assert monitor.returncode == 0
    # what the admin's own values say still holds
    assert "monitoring-grafana" not in kubectl(NAMESPACE, "get", "statefulsets")
    assert pod(NAMESPACE, "monitoring-prometheus-0")["metadata"]["uid"] == before["metadata"]["uid"]


def test_a_release_that_watches_another_mesh_is_not_taken_from_it(mesh, prometheus, tmp_path):
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(mesh.file.read_text()) | {"name": "other"}))
    provision(load(file), tmp_path / "other")
    arguments = command(file, tmp_path / "other", free_port())
    refused = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode == 1
    assert f"also watches {mesh.topology.name}: list the meshes" in refused.stderr.replace("\n", " ")
    prometheus.scrapes(set(mesh.releases))


def test_a_way_that_is_cut_ends_it(mesh, prometheus):
    with monitored(mesh) as (monitor, _):
        (way,) = psutil.Process(monitor.pid).children()
        way.kill()
        _, errors = monitor.communicate(timeout=60)
    assert monitor.returncode == 1
    assert "Prometheus in the cluster cannot be reached any more" in errors
