"""`flaremesh monitor` where Prometheus is a container and scrapes containers."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from container_mesh import VALUES, ContainerMesh, engine, wait_until

from flaremesh.deploy.watch.monitor import FOLDER
from flaremesh.provision.monitoring_values import PROMETHEUS_IMAGE
from ports import free_port
from programs import lacking
from promql import Prometheus

pytestmark = pytest.mark.timeout(300)

PARTICIPANTS = {"server", *VALUES}
NO_PROMETHEUS = {"PATH": "/nowhere"}


@pytest.fixture(autouse=True, scope="module")
def _an_image() -> None:
    if engine("image", "inspect", PROMETHEUS_IMAGE).returncode:
        lacking(f"the Docker engine has no image {PROMETHEUS_IMAGE}", f"docker pull {PROMETHEUS_IMAGE}")


@contextmanager
def monitored(mesh: ContainerMesh) -> Iterator[tuple[subprocess.Popen[str], Prometheus]]:
    port = free_port()
    options = ("--prometheus-port", str(port), "--port", str(free_port()))
    with mesh.start("monitor", *options, env=NO_PROMETHEUS) as monitor:
        assert monitor.stdout
        try:
            assert any("Ctrl-C ends this." in line for line in monitor.stdout)
            yield monitor, Prometheus(f"http://127.0.0.1:{port}")
        finally:
            monitor.terminate()


def up(prometheus: Prometheus) -> dict[str, float]:
    return {sample.labels["site"]: sample.value for sample in prometheus.query("up")}


def test_all_containers_are_scraped_and_nothing_but_the_data_is_left(mesh):
    container = f"{mesh.name}_prometheus"
    with monitored(mesh) as (monitor, prometheus):
        wait_until(lambda: up(prometheus) == dict.fromkeys(PARTICIPANTS, 1.0), 60)
        assert engine("inspect", container).returncode == 0
        assert mesh.status()["ready"]  # it is none of the mesh's own containers
        monitor.send_signal(signal.SIGINT)
    assert monitor.returncode == 0
    assert engine("inspect", container).returncode != 0
    data = mesh.folder / FOLDER / "data"
    assert data.is_dir()
    assert data.stat().st_uid == os.getuid()


def test_a_container_that_dies_ends_it_with_its_last_lines(mesh):
    with monitored(mesh) as (monitor, _):
        assert engine("kill", f"{mesh.name}_prometheus").returncode == 0
        _, errors = monitor.communicate(timeout=60)
    assert monitor.returncode == 1
    assert "Error: Prometheus ended. Its last lines:" in errors
    assert "Server is ready" in errors
