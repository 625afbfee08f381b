"""`flaremesh monitor` on the cluster: installs or keeps the release, and opens ways to it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from cluster import call, helm, kubectl, pod
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


def refused(mesh, folder: Path, **changes: Any) -> str:
    """Why the command installs nothing for a mesh of another name in the same namespaces."""
    file = folder / "other.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(mesh.file.read_text()) | {"name": "other"} | changes))
    provision(load(file), folder / "other")
    arguments = command(file, folder / "other", free_port())
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    return " ".join(ended.stderr.split())


def test_a_release_that_watches_another_mesh_is_not_taken_from_it(mesh, prometheus, tmp_path):
    assert f"also watches {mesh.topology.name}: list the meshes" in refused(mesh, tmp_path)
    prometheus.scrapes(set(mesh.releases))


def test_a_release_of_another_chart_is_left_alone(mesh, tmp_path):
    namespace = f"{NAMESPACE}-taken"
    chart = tmp_path / "dashboards"
    chart.mkdir()
    (chart / "Chart.yaml").write_text("{apiVersion: v2, name: dashboards, version: 1.2.3}")
    helm(namespace, "install", "monitoring", chart, "--create-namespace")
    try:
        said = refused(mesh, tmp_path, deploy={"monitoring": namespace})
        assert f"{namespace} has a release monitoring of the chart dashboards-1.2.3" in said
        assert "dashboards-1.2.3" in helm(namespace, "list")
    finally:
        call("kubectl", "delete", "namespace", namespace, "--wait=false")


def test_a_way_that_is_cut_ends_it(mesh, prometheus):
    with monitored(mesh) as (monitor, _):
        (way,) = psutil.Process(monitor.pid).children()
        way.kill()
        _, errors = monitor.communicate(timeout=60)
    assert monitor.returncode == 1
    assert "Prometheus in the cluster cannot be reached any more" in errors
