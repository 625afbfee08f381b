"""The Kubernetes target: one Helm release per participant on the cluster of a context."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from flaremesh.deploy.targets.base import MESH_LABEL, Address, DeployError, Participant, at_once, unpack
from flaremesh.metrics.ask import COMMAND as ASK
from flaremesh.p2p.job_processes import COMMAND as END
from flaremesh.p2p.outcome import RUN_FOLDER
from flaremesh.provision.placement import may_be_elsewhere
from flaremesh.provision.releases import (
    KIT_VALUES,
    MONITORING,
    MONITORING_CHART,
    OWN_VALUES,
    VALUES,
    Release,
    release_folder,
    releases,
    values_of,
)
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import SERVER, Topology

T = TypeVar("T")

_POLL_SECONDS = 1.0
_API_SECONDS = 10.0
_HELM_SECONDS = 120
_COMMAND_SECONDS = 180.0  # of silence of helm or kubectl, which have shorter limits of their own
_HELMS = 8  # at the same time; each takes a core and a hundred megabytes
_ROOT = "rootCA.pem"
_TAR_FAILS = 2  # its exit code where there is no such folder
_FATAL = {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CrashLoopBackOff"}
_POD_SECURITY = {"pod-security.kubernetes.io/enforce": "restricted"}


class KubernetesTarget:
    """Installs the folders that provisioning wrote in ``<mesh>/helm``, in the current context.

    Helm and kubectl do what they are for; the state of pods is read from the cluster's API.

    Args:
        topology: the mesh.
        mesh: folder of the provisioned mesh.

    Raises:
        DeployError: there is no cluster, or it does not answer.
    """

    start_seconds = 300.0

    def __init__(self, topology: Topology, mesh: Path):
        self._mesh = mesh
        self._label = f"{MESH_LABEL}={topology.name}"
        self._releases = {release.name: release for release in releases(topology)}
        graph = build(topology)
        self._metrics = {name: values_of(topology, graph, name).metrics.port for name in self._releases}
        self._server: Address = (topology.server.host, topology.server.port)
        self._movable = {name for name in self._releases if may_be_elsewhere(topology, name)}
        try:
            config.load_kube_config()
            self._core, self._apps = client.CoreV1Api(), client.AppsV1Api()
            client.VersionApi().get_code(_request_timeout=_API_SECONDS)  # whoever may log in may ask
        except (ConfigException, ApiException, HTTPError) as error:
            raise DeployError(
                f"no Kubernetes cluster answers in the current context: {error}. "
                "`kubectl get nodes` must work; `kubectl config use-context` chooses a cluster."
            ) from None

    def up(self, timeout: float) -> list[str]:
        """See Target."""
        there = self._installed()
        started = [release for release in self._releases.values() if release not in there]
        try:
            at_once(self._install, self._releases.values(), _HELMS)
            self._wait_until_ready(timeout)
        except BaseException:
            with contextlib.suppress(DeployError):  # the first error says more
                self._uninstall(started)
            raise
        return [release.name for release in started]

    def down(self) -> list[str]:
        """See Target; the volumes stay."""
        # a site that left the topology while it was up is stopped too
        installed = [*self._installed(), *self._left()]
        self._uninstall(installed)
        return list(dict.fromkeys(release.name for release in installed))

    def participants(self) -> list[Participant]:
        """See Target."""
        return [self._participant(release) for release in self._releases.values()]

    def fetch(self, participant: str, run_id: str, folder: Path) -> bool:
        """See Target; it is copied out of the pod."""
        source = f"/workspace/{run_id}"
        with tempfile.TemporaryFile() as archive:
            tar = ("tar", "--create", "--directory", source, RUN_FOLDER)
            ended = self._exec(participant, archive, *tar)
            if ended.returncode not in (0, _TAR_FAILS) and archive.seek(0, os.SEEK_END):
                raise DeployError(f"the copy broke off: {ended.stderr.decode().strip()}")
            if ended.returncode:
                return False
            archive.seek(0)
            unpack(archive, folder)
        return True

    def end_run(self, run_id: str, timeout: float) -> None:
        """See Target."""
        command = (*END, run_id, str(timeout))

        def end(name: str) -> None:
            # a pod that does not answer must not cost the run its result
            with contextlib.suppress(DeployError):
                self._exec(name, subprocess.DEVNULL, *command)

        at_once(end, self._releases)

    def ask(self, participant: str, path: str) -> bytes | None:
        """See Target."""
        with tempfile.TemporaryFile() as answer:
            if self._exec(participant, answer, *ASK, path).returncode:
                return None
            answer.seek(0)
            return answer.read()

    @contextlib.contextmanager
    def server(self) -> Iterator[Address]:
        """See Target; a forwarded port of this machine, if the server is on this cluster."""
        release = self._releases[SERVER]
        if self._participant(release).elsewhere:
            yield self._server
            return
        with forwarded(release.namespace, f"pod/{release.name}-0", self._server[1]) as forward:
            yield "localhost", forward.port

    # what watches the mesh

    def install_monitoring(self, namespace: str) -> dict[str, str | None]:
        """Install or upgrade the release that watches the mesh, and wait for what it is made of.

        Args:
            namespace: the release's.

        Returns:
            what keeps each of its StatefulSets from getting ready; None where nothing does.

        Raises:
            DeployError: the release there is another one's, or watches another mesh, which it would lose.
        """
        folder = release_folder(self._mesh, MONITORING)
        release = Release(MONITORING, namespace, MONITORING_CHART)
        self._make_namespace(namespace)
        if chart := _installed_chart(release):
            _check_takeover(release, chart, folder)
        _helm(
            *("upgrade", "--install", MONITORING, str(folder / MONITORING_CHART), "--namespace", namespace),
            *_files(folder, VALUES, OWN_VALUES),
        )
        label = f"app.kubernetes.io/instance={MONITORING}"
        found = self._apps.list_namespaced_stateful_set(namespace, label_selector=label).items
        parts = [Release(part.metadata.name, namespace, MONITORING_CHART) for part in found]
        return {part.name: self._what_keeps(part) for part in parts}

    def _what_keeps(self, release: Release) -> str | None:
        """Wait until a release's pod is ready; what keeps it from that, None if nothing does."""
        deadline = time.monotonic() + self.start_seconds
        while not ((stateful_set := self._stateful_set(release)) and _is_rolled_out(stateful_set)):
            if trouble := self._trouble(release):
                return trouble
            if time.monotonic() > deadline:
                return f"not ready after {self.start_seconds:.0f} s"
            time.sleep(_POLL_SECONDS)
        return None

    # releases

    def _installed(self) -> list[Release]:
        """Those of the mesh's releases that are there."""
        wanted = list(self._releases.values())
        charts = at_once(_installed_chart, wanted, _HELMS)
        return [release for release, chart in zip(wanted, charts, strict=True) if chart]

    def _install(self, release: Release) -> None:
        folder = release_folder(self._mesh, release.name)
        self._make_namespace(release.namespace)
        _helm(
            *("upgrade", "--install", release.name, str(folder / release.chart)),
            *("--namespace", release.namespace),
            *_files(folder, VALUES, KIT_VALUES, OWN_VALUES),
        )

    def _uninstall(self, installed: Sequence[Release]) -> None:
        sites = [release for release in installed if release.name != SERVER]
        servers = [release for release in installed if release.name == SERVER]
        for group in (sites, servers):  # the sites log out
            at_once(_uninstall, group, _HELMS)
            self._wait_until_gone(group)

    def _wait_until_gone(self, group: Sequence[Release]) -> None:
        """Helm does not wait for pods that end in order, as these do."""
        deadline = time.monotonic() + _HELM_SECONDS
        while left := [release.name for release in group if self._pod(release)]:
            if time.monotonic() > deadline:
                raise DeployError(f"still there after {_HELM_SECONDS} s: the pods of {', '.join(left)}")
            time.sleep(_POLL_SECONDS)

    def _left(self) -> list[Release]:
        """The releases of this mesh that its topology no longer names, as far as this user may see them."""
        known = {(release.name, release.namespace) for release in self._releases.values()}
        found = [
            Release(s.metadata.name, s.metadata.namespace, s.metadata.labels["app.kubernetes.io/name"])
            for s in self._stateful_sets()
        ]
        return [r for r in found if (r.name, r.namespace) not in known and self._has_root(r)]

    def _stateful_sets(self) -> list[client.V1StatefulSet]:
        """Those of meshes of this name: in all namespaces, or where that is forbidden in the mesh's own."""
        options = {"label_selector": self._label, "_request_timeout": _API_SECONDS}
        with contextlib.suppress(ApiException, HTTPError):
            return list(self._apps.list_stateful_set_for_all_namespaces(**options).items)
        found = []
        for namespace in {release.namespace for release in self._releases.values()}:
            with contextlib.suppress(ApiException, HTTPError):
                found += self._apps.list_namespaced_stateful_set(namespace, **options).items
        return found

    def _has_root(self, release: Release) -> bool:
        """The kit that the chart made is of this mesh, and not of another one with the same name."""
        root = self._mesh / "kits" / SERVER / "startup" / _ROOT
        with contextlib.suppress(DeployError, OSError):
            secret = _if_there(release, self._core.read_namespaced_secret, f"{release.name}-kit")
            return bool(secret and b64decode((secret.data or {}).get(_ROOT, "")) == root.read_bytes())
        return False

    def _make_namespace(self, name: str) -> None:
        body = client.V1Namespace(metadata=client.V1ObjectMeta(name=name, labels=_POD_SECURITY))
        try:
            self._core.create_namespace(body)
        except ApiException as error:
            if error.status != 409:  # it exists
                raise DeployError(f"the namespace {name} cannot be made: {error.reason}") from None

    # pods

    def _wait_until_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while waiting := [p.name for p in self.participants() if not p.ready]:
            for name in waiting:
                if trouble := self._trouble(self._releases[name]):
                    raise DeployError(f"{name} does not come up: {trouble}")
            if time.monotonic() > deadline:
                events = "; ".join(f"{name}: {self._last_event(name) or 'no event'}" for name in waiting)
                raise DeployError(f"not ready after {timeout:.0f} s: {events}")
            time.sleep(_POLL_SECONDS)

    def _participant(self, release: Release) -> Participant:
        pod = self._pod(release)
        running = pod is not None and pod.metadata.deletion_timestamp is None
        stateful_set = self._stateful_set(release)
        service = f"http://{release.name}.{release.namespace}.svc:{self._metrics[release.name]}"
        return Participant(
            name=release.name,
            running=running,
            ready=running and stateful_set is not None and _is_rolled_out(stateful_set),
            place=f"{release.namespace}/{release.name}-0" if pod else "",
            metrics=f"{service}/metrics" if running else None,
            elsewhere=stateful_set is None and release.name in self._movable,
        )

    def _stateful_set(self, release: Release) -> client.V1StatefulSet | None:
        return _if_there(release, self._apps.read_namespaced_stateful_set, release.name)

    def _pod(self, release: Release) -> client.V1Pod | None:
        return _if_there(release, self._core.read_namespaced_pod, f"{release.name}-0")

    def _trouble(self, release: Release) -> str | None:
        """What keeps a pod from starting and will not pass by itself."""
        pod, stateful_set = self._pod(release), self._stateful_set(release)
        if not (pod and stateful_set and _is_of(pod, stateful_set)):
            return None
        for status in pod.status.container_statuses or []:
            waiting, last = status.state.waiting, status.last_state.terminated
            if last and last.message and waiting:
                return str(last.message).strip()
            if waiting and waiting.reason in _FATAL:
                return f"{waiting.reason}: {waiting.message}"
        return None

    def _last_event(self, name: str) -> str | None:
        release = self._releases[name]
        events = self._core.list_namespaced_event(release.namespace, field_selector="type=Warning").items
        own = [e for e in events if e.involved_object.name in (name, f"{name}-0", f"workspace-{name}-0")]
        return str(own[-1].message) if own else None

    def _exec(
        self, participant: str, output: IO[bytes] | int, *command: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Write to ``output`` what a command in the pod prints."""
        pod = ("--namespace", self._releases[participant].namespace, f"{participant}-0")
        return call("kubectl", "exec", *pod, "--", *command, output=output)


@dataclass(frozen=True)
class Forward:
    """A port of this machine that leads into the cluster."""

    port: int
    process: subprocess.Popen[str]

    def check(self, name: str) -> None:
        """Raise DeployError if it leads there no more."""
        # kubectl notices a pod's end when somebody wants to go there
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        if self.process.poll() is not None:
            raise DeployError(f"{name} in the cluster cannot be reached any more: its pod has ended")


@contextlib.contextmanager
def forwarded(namespace: str, what: str, port: int, local: int = 0) -> Iterator[Forward]:
    """A port of this machine that leads to a pod's while the context lasts.

    Args:
        namespace: where it is.
        what: ``pod/<name>`` or ``service/<name>``.
        port: the one to reach.
        local: the one of this machine; 0 takes a free one.

    Raises:
        DeployError: it cannot be reached.
    """
    command = [
        *("kubectl", "--namespace", namespace, "port-forward", "--pod-running-timeout=10s"),
        *(what, f"{local or ''}:{port}"),
    ]
    _require("kubectl")
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C aborts the run, and through this port
    ) as forward:
        assert forward.stdout
        assert forward.stderr
        listeners = [
            threading.Thread(target=deque, args=(output, 0)) for output in (forward.stdout, forward.stderr)
        ]
        try:
            found = re.search(r"127\.0\.0\.1:(\d+)", forward.stdout.readline())
            if found is None:
                reason = forward.stderr.read().strip()
                raise DeployError(f"{what} in the namespace {namespace} cannot be reached: {reason}")
            # it tells of every connection, and would wait where nobody listened
            for listener in listeners:
                listener.start()
            yield Forward(int(found[1]), forward)
        finally:
            forward.terminate()
            for listener in listeners:
                if listener.is_alive():
                    listener.join()


def _is_of(pod: client.V1Pod, found: client.V1StatefulSet) -> bool:
    """The pod is what the release asks for now, not what an upgrade is about to replace."""
    revision = pod.metadata.labels.get("controller-revision-hash")
    return _is_observed(found) and bool(revision == found.status.update_revision)


def _is_rolled_out(found: client.V1StatefulSet) -> bool:
    """The pod is ready, and is the one that the release asks for now."""
    status = found.status
    return _is_observed(found) and bool(
        status.current_revision == status.update_revision and status.ready_replicas
    )


def _is_observed(found: client.V1StatefulSet) -> bool:
    """Its status tells of what the release asks for now; one that was just made has none."""
    return bool((found.status.observed_generation or 0) >= found.metadata.generation)


def _if_there(release: Release, read: Callable[..., T], name: str) -> T | None:
    """What the cluster tells of an object, None where it has no such object."""
    try:
        return read(name, release.namespace, _request_timeout=_API_SECONDS)
    except ApiException as error:
        if error.status == 404:
            return None
        reason = error.reason
    except HTTPError as error:
        reason = error
    raise DeployError(f"{release.name}: the cluster does not tell of it: {reason}")


def _files(folder: Path, *names: str) -> list[str]:
    """Helm's options for files of values, those that are there."""
    found = [folder / name for name in names if (folder / name).exists()]
    return [option for file in found for option in ("-f", str(file))]


def _installed_chart(release: Release) -> str | None:
    """Chart and version of what is installed under the release's name."""
    only = ("--namespace", release.namespace, "--filter", f"^{release.name}$")
    found = json.loads(_helm("list", *only, "--output", "json"))
    return str(found[0]["chart"]) if found else None


def _uninstall(release: Release) -> None:
    options = ("--ignore-not-found", "--wait", "--timeout", f"{_HELM_SECONDS}s")
    _helm("uninstall", release.name, "--namespace", release.namespace, *options)


def _check_takeover(release: Release, chart: str, folder: Path) -> None:
    if not re.fullmatch(rf"{release.chart}-\d.*", chart):
        raise DeployError(
            f"the namespace {release.namespace} has a release {release.name} of the chart {chart}: name "
            "another namespace in deploy.monitoring"
        )
    installed = json.loads(
        _helm("get", "values", release.name, "--namespace", release.namespace, "--output", "json")
    )
    given: dict[str, Any] = {}
    for file in (folder / VALUES, folder / OWN_VALUES):
        try:
            given |= yaml.safe_load(file.read_bytes()) or {} if file.exists() else {}
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise DeployError(f"{file} holds no values: {' '.join(str(error).split())}") from None
    if lost := sorted(set(installed["meshes"]).difference(given["meshes"])):
        raise DeployError(
            f"the release {release.name} in the namespace {release.namespace} also watches "
            f"{', '.join(lost)}: list the meshes and the namespaces of all in {folder / OWN_VALUES}, "
            "as `meshes: [...]` and `namespaces: [...]`"
        )


def _helm(*arguments: str) -> str:
    ended = call("helm", *arguments, output=subprocess.PIPE)
    if ended.returncode:
        raise DeployError(f"helm {arguments[0]} failed: {ended.stderr.decode().strip()}")
    return str(ended.stdout.decode())


def call(*command: str, output: IO[bytes] | int) -> subprocess.CompletedProcess[bytes]:
    """Run helm or kubectl, for as long as bytes come.

    Args:
        command: the command.
        output: file for what it prints, or as in subprocess.

    Raises:
        DeployError: it is not installed, or prints nothing for _COMMAND_SECONDS.
    """
    _require(command[0])
    with subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE) as process:
        try:
            before = 0
            while True:
                try:
                    printed, errors = process.communicate(timeout=_COMMAND_SECONDS)
                    return subprocess.CompletedProcess(command, process.returncode, printed, errors)
                except subprocess.TimeoutExpired as error:
                    size = 0 if isinstance(output, int) else os.fstat(output.fileno()).st_size
                    if size == before:
                        raise DeployError(
                            f"{' '.join(command[:3])} gives no answer within {error.timeout:.0f} s"
                        ) from None
                    before = size
        finally:
            process.kill()


def _require(program: str) -> None:
    if shutil.which(program) is None:
        raise DeployError(f"{program} is not installed; the Kubernetes target needs helm and kubectl")
