"""Prometheus and Grafana for a mesh that is up, for as long as a command runs."""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from flaremesh.deploy.targets import TargetKind, target_of
from flaremesh.deploy.targets.base import DeployError
from flaremesh.deploy.targets.local import check_port
from flaremesh.deploy.watch.scrape_targets import ScrapeTargets, configure, nothing_runs
from flaremesh.deploy.watch.services import (
    NoImage,
    Service,
    container,
    engine_with,
    program,
    wait_until_ready,
)
from flaremesh.provision.monitoring_values import GRAFANA_IMAGE, PROMETHEUS_IMAGE, MonitoringValues
from flaremesh.provision.releases import DASHBOARDS, MONITORING
from flaremesh.topology.schema import Topology

FOLDER = "monitoring"
"""Folder of the mesh with the configuration and the data of its Prometheus."""

_FIRST_DASHBOARD = "overview.json"
_DEFAULTS = MonitoringValues().prometheus
_PROMETHEUS_PORT, _GRAFANA_PORT = 9090, 3000  # of their Services in a cluster
_REFRESH_SECONDS = 5.0
_POLL_SECONDS = 1.0
_GRAFANA = {
    "GF_SERVER_HTTP_ADDR": "127.0.0.1",
    "GF_AUTH_ANONYMOUS_ENABLED": "true",
    "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
    "GF_AUTH_BASIC_ENABLED": "false",
    "GF_AUTH_DISABLE_LOGIN_FORM": "true",
    "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION": "true",
    # it dials Prometheus alone
    "GF_ANALYTICS_REPORTING_ENABLED": "false",
    "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
    "GF_PLUGINS_PREINSTALL_DISABLED": "true",
    "GF_NEWS_NEWS_FEED_ENABLED": "false",
}


@dataclass(frozen=True)
class Ports:
    """Ports at which this machine, and no other, reaches the services."""

    prometheus: int
    grafana: int


@dataclass(frozen=True)
class Monitor:
    """What was opened.

    Attributes:
        prometheus: its URL.
        grafana: URL of the first dashboard, None without a Grafana.
        remarks: what the user has to know, in sentences.
    """

    prometheus: str
    grafana: str | None
    remarks: tuple[str, ...]
    _services: Mapping[str, Service]
    _targets: ScrapeTargets | None

    def watch(self) -> None:
        """Keep the list of what Prometheus scrapes up to date, for ever.

        Raises:
            DeployError: one of the services has ended.
        """
        while True:
            refreshed = time.monotonic()
            while time.monotonic() - refreshed < _REFRESH_SECONDS:
                for name, service in self._services.items():
                    service.check(name)
                time.sleep(_POLL_SECONDS)
            if self._targets:
                self._targets.refresh()


@contextlib.contextmanager
def monitor(kind: TargetKind, topology: Topology, mesh: Path, ports: Ports) -> Iterator[Monitor]:
    """Open the dashboards of a mesh while the context lasts.

    On this machine and on Docker that is how long Prometheus scrapes; its data stay in the mesh's folder.
    Prometheus is the program on the PATH, or else a container; Grafana is a container. On Kubernetes both are
    installed, and stay.

    Args:
        kind: where the mesh is up.
        topology: the mesh.
        mesh: its folder.
        ports: where to serve.

    Raises:
        DeployError: the mesh is down or monitored already, a port is taken, or there is no Prometheus.
    """
    folder = (mesh / FOLDER).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(topology.name, folder):
        _check_port(ports.prometheus, "--prometheus-port")
        open_ = _on_kubernetes if kind is TargetKind.KUBERNETES else _here
        with open_(kind, topology, mesh, ports) as opened:
            yield opened


@contextlib.contextmanager
def _here(kind: TargetKind, topology: Topology, mesh: Path, ports: Ports) -> Iterator[Monitor]:
    folder = (mesh / FOLDER).resolve()
    targets = ScrapeTargets(topology.name, target_of(kind, topology, mesh), folder / "targets.json")
    targets.refresh()
    configure(folder, targets.file)
    url = f"http://127.0.0.1:{ports.prometheus}"
    with contextlib.ExitStack() as stack:
        services = {"Prometheus": stack.enter_context(_prometheus(topology.name, folder, ports.prometheus))}
        try:
            services["Grafana"] = stack.enter_context(_grafana(topology.name, ports.grafana, url))
        except NoImage as error:
            remark = f"No Grafana: {error} `flaremesh top` shows the mesh in a terminal."
            yield Monitor(url, None, (remark,), services, targets)
        else:
            yield Monitor(url, _first_dashboard(ports.grafana), (), services, targets)


@contextlib.contextmanager
def _on_kubernetes(kind: TargetKind, topology: Topology, mesh: Path, ports: Ports) -> Iterator[Monitor]:
    from flaremesh.deploy.targets.kubernetes.port_forward import forwarded
    from flaremesh.deploy.targets.kubernetes.target import KubernetesTarget

    namespace = topology.deploy.monitoring if topology.deploy else None
    if namespace is None:
        raise DeployError(
            f"the participants of {topology.name} admit no scraper: name a namespace for it in the topology "
            "file, `deploy: {monitoring: monitoring}`, and run `flaremesh up --target kubernetes`"
        )
    target = KubernetesTarget(topology, mesh)
    if not any(participant.running for participant in target.participants()):
        raise nothing_runs(topology.name)
    _check_port(ports.grafana, "--port")
    prometheus, grafana = f"{MONITORING}-prometheus", f"{MONITORING}-grafana"
    troubles = target.install_monitoring(namespace)
    if trouble := troubles.get(prometheus, "its release has none; the cluster's own watches the mesh"):
        raise DeployError(f"{namespace}/{prometheus} does not come up: {trouble}")
    url = f"http://127.0.0.1:{ports.prometheus}"
    stays = f"`helm uninstall {MONITORING} --namespace {namespace}` takes away what stays in the cluster."
    with contextlib.ExitStack() as stack:

        def reach(name: str, port: int, local: int) -> Service:
            return stack.enter_context(forwarded(namespace, f"service/{name}", port, local))

        services = {"Prometheus": reach(prometheus, _PROMETHEUS_PORT, ports.prometheus)}
        if trouble := troubles.get(grafana, "its release has none"):
            yield Monitor(url, None, (f"No Grafana: {trouble}", stays), services, None)
            return
        services["Grafana"] = reach(grafana, _GRAFANA_PORT, ports.grafana)
        password = (
            f"kubectl -n {namespace} get secret {grafana} -o "
            "go-template='{{index .data \"admin-password\" | base64decode}}'"
        )
        login = f"Log in as admin; the password, unless the release uses a Secret of your own: {password}"
        yield Monitor(url, _first_dashboard(ports.grafana), (login, stays), services, None)


@contextlib.contextmanager
def _alone(mesh: str, folder: Path) -> Iterator[None]:
    with (folder / "lock").open("a+") as lock:
        lock.seek(0)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DeployError(
                f"{mesh} is monitored already, by process {lock.read().strip()}: look there, or end that one"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _check_port(port: int, option: str) -> None:
    check_port("127.0.0.1", port, "port", f"Choose another one with {option}.")


def _first_dashboard(port: int) -> str:
    uid = json.loads((DASHBOARDS / _FIRST_DASHBOARD).read_text())["uid"]
    return f"http://127.0.0.1:{port}/d/{uid}"


# what serves


@contextlib.contextmanager
def _prometheus(mesh: str, folder: Path, port: int) -> Iterator[Service]:
    """Prometheus, ready; it reads its configuration in ``folder`` and keeps its data there."""
    arguments = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--storage.tsdb.retention.time={_DEFAULTS.retention}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    service: contextlib.AbstractContextManager[Service]
    if installed := shutil.which("prometheus"):
        service = program([installed, *arguments], folder / "prometheus.log")
    else:
        try:
            engine = engine_with(PROMETHEUS_IMAGE)
        except NoImage as error:
            raise DeployError(f"there is no program prometheus on the PATH, and {error}") from None
        # the folder has the same path in the container, and the files written there belong to its owner
        volumes = {str(folder): {"bind": str(folder), "mode": "rw"}}
        user = f"{os.getuid()}:{os.getgid()}"
        service = container(engine, PROMETHEUS_IMAGE, mesh, command=arguments, volumes=volumes, user=user)
    with service as running:
        wait_until_ready("Prometheus", running, f"http://127.0.0.1:{port}/-/ready")
        yield running


@contextlib.contextmanager
def _grafana(mesh: str, port: int, prometheus: str) -> Iterator[Service]:
    """Grafana with the dashboards, ready; users of this machine may view them without a password."""
    engine = engine_with(GRAFANA_IMAGE)
    _check_port(port, "--port")
    environment = _GRAFANA | {"GF_SERVER_HTTP_PORT": str(port)}
    files = provisioning(prometheus)
    with container(engine, GRAFANA_IMAGE, mesh, files, environment=environment) as running:
        wait_until_ready("Grafana", running, f"http://127.0.0.1:{port}/api/health")
        yield running


def provisioning(prometheus: str) -> dict[str, bytes]:
    """The files that give a Grafana its data source and its dashboards, by path."""
    source = {
        "name": "Prometheus",
        "uid": "flaremesh",
        "type": "prometheus",
        "url": prometheus,
        "isDefault": True,
        "jsonData": {"timeInterval": _DEFAULTS.interval},
    }
    provider = {
        "name": "flaremesh",
        "folder": "flaremesh",
        "type": "file",
        "options": {"path": "/dashboards"},
    }
    documents = {
        "datasources": {"apiVersion": 1, "datasources": [source]},
        "dashboards": {"apiVersion": 1, "providers": [provider]},
    }
    return {
        f"/etc/grafana/provisioning/{kind}/flaremesh.yaml": yaml.safe_dump(document).encode()
        for kind, document in documents.items()
    } | {f"/dashboards/{file.name}": file.read_bytes() for file in DASHBOARDS.glob("*.json")}
