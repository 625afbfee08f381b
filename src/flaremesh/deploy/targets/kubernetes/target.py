"""The Kubernetes target: one Helm release per participant on the cluster of a context."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from typing_extensions import override

from flaremesh.deploy.targets.archives import room, unpack
from flaremesh.deploy.targets.base import (
    MESH_LABEL,
    MOST_ANSWER,
    Address,
    DeployError,
    Participant,
    Target,
    TooLong,
    at_once,
)
from flaremesh.deploy.targets.kubernetes import helm
from flaremesh.deploy.targets.kubernetes.commands import call
from flaremesh.deploy.targets.kubernetes.objects import Cluster, is_rolled_out
from flaremesh.deploy.targets.kubernetes.port_forward import forwarded
from flaremesh.metrics.ask import COMMAND as ASK
from flaremesh.p2p.job_processes import COMMAND as END
from flaremesh.p2p.nvflare.startup import ROOT
from flaremesh.p2p.outcome import RUN_FOLDER
from flaremesh.printable import printable
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
from flaremesh.waiting import wait_while

_POLL_SECONDS = 1.0
_TAR_FAILS = 2  # exit code of tar where there is no such folder


class KubernetesTarget(Target):
    """Installs the folders that provisioning wrote in ``<mesh>/helm``, in the current context.

    Helm installs, kubectl copies and forwards; the state of pods is read from the cluster's API. The volumes
    stay when a mesh is taken down.

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
        self._cluster = Cluster()

    @override
    def up(self, timeout: float) -> list[str]:
        there = self._installed()
        started = [release for release in self._releases.values() if release not in there]
        try:
            at_once(self._install, self._releases.values(), helm.AT_ONCE)
            self._wait_until_ready(timeout)
        except BaseException:
            with contextlib.suppress(DeployError):  # the first error says more
                self._uninstall(started)
            raise
        return [release.name for release in started]

    @override
    def down(self) -> list[str]:
        # a site that left the topology while it was up is stopped too
        installed = [*self._installed(), *self._left()]
        self._uninstall(installed)
        return list(dict.fromkeys(release.name for release in installed))

    @override
    def participants(self) -> list[Participant]:
        return [self._participant(release) for release in self._releases.values()]

    @override
    def fetch(self, participant: str, run_id: str, folder: Path) -> bool:
        source = f"/workspace/{run_id}"
        with tempfile.TemporaryFile(dir=folder.parent) as archive:
            tar = ("tar", "--create", "--directory", source, RUN_FOLDER)
            ended = self._exec(participant, archive, *tar, most=room(folder))
            if ended.returncode not in (0, _TAR_FAILS) and archive.seek(0, os.SEEK_END):
                raise DeployError(f"the copy broke off: {printable(ended.stderr.decode(errors='replace'))}")
            if ended.returncode:
                return False
            archive.seek(0)
            unpack(archive, folder)
        return True

    @override
    def end_run(self, run_id: str, timeout: float) -> None:
        command = (*END, run_id, str(timeout))

        def end(name: str) -> None:
            # a pod that does not answer must not cost the run its result
            with contextlib.suppress(DeployError):
                self._exec(name, subprocess.DEVNULL, *command)

        at_once(end, self._releases)

    @override
    def ask(self, participant: str, path: str) -> bytes | None:
        try:
            ended = self._exec(participant, subprocess.PIPE, *ASK, path, most=MOST_ANSWER)
        except TooLong:
            return None
        return None if ended.returncode else ended.stdout

    @override
    @contextlib.contextmanager
    def server(self) -> Iterator[Address]:
        release = self._releases[SERVER]
        if self._participant(release).elsewhere:
            yield self._server
            return
        with forwarded(release.namespace, f"pod/{release.name}-0", self._server[1]) as forward:
            yield "localhost", forward.port

    def install_monitoring(self, namespace: str) -> dict[str, str | None]:
        """Install or upgrade the release that watches the mesh, and wait for its pods.

        Args:
            namespace: the release's.

        Returns:
            what keeps each of its StatefulSets from getting ready; None where nothing does.

        Raises:
            DeployError: the release there is another chart's, or watches another mesh, which it would lose.
        """
        folder = release_folder(self._mesh, MONITORING)
        release = Release(MONITORING, namespace, MONITORING_CHART)
        self._cluster.make_namespace(namespace)
        if chart := helm.installed_chart(release):
            helm.check_takeover(release, chart, folder)
        helm.install(release, folder, VALUES, OWN_VALUES)
        found = self._cluster.stateful_sets_in(namespace, f"app.kubernetes.io/instance={MONITORING}")
        parts = [Release(part.metadata.name, namespace, MONITORING_CHART) for part in found]
        return {part.name: self._what_keeps(part) for part in parts}

    def _what_keeps(self, release: Release) -> str | None:
        """Wait until a release's pod is ready; returns what keeps it from that, None if nothing does."""
        trouble = None

        def is_coming() -> bool:
            nonlocal trouble
            ready = self._cluster.is_rolled_out(release)
            trouble = None if ready else self._cluster.trouble(release)
            return not ready and trouble is None

        late = wait_while(is_coming, self.start_seconds, _POLL_SECONDS)
        return f"not ready after {self.start_seconds:.0f} s" if late else trouble

    # releases

    def _installed(self) -> list[Release]:
        """The releases of the mesh that are installed."""
        wanted = list(self._releases.values())
        charts = at_once(helm.installed_chart, wanted, helm.AT_ONCE)
        return [release for release, chart in zip(wanted, charts, strict=True) if chart]

    def _install(self, release: Release) -> None:
        self._cluster.make_namespace(release.namespace)
        helm.install(release, release_folder(self._mesh, release.name), VALUES, KIT_VALUES, OWN_VALUES)

    def _uninstall(self, installed: Sequence[Release]) -> None:
        sites = [release for release in installed if release.name != SERVER]
        servers = [release for release in installed if release.name == SERVER]
        for group in (sites, servers):  # the sites log out
            at_once(helm.uninstall, group, helm.AT_ONCE)
            self._wait_until_gone(group)

    def _wait_until_gone(self, group: Sequence[Release]) -> None:
        """Wait until the pods are gone: Helm does not wait for pods that take time to end."""

        def left() -> list[str]:
            return [release.name for release in group if self._cluster.pod(release)]

        if late := wait_while(left, helm.UNINSTALL_SECONDS, _POLL_SECONDS):
            raise DeployError(f"still there after {helm.UNINSTALL_SECONDS} s: the pods of {', '.join(late)}")

    def _left(self) -> list[Release]:
        """The releases of this mesh that its topology no longer names, as far as this user may see them."""
        known = {(release.name, release.namespace) for release in self._releases.values()}
        namespaces = {release.namespace for release in self._releases.values()}
        found = [
            Release(s.metadata.name, s.metadata.namespace, s.metadata.labels["app.kubernetes.io/name"])
            for s in self._cluster.stateful_sets(self._label, namespaces)
        ]
        return [r for r in found if (r.name, r.namespace) not in known and self._has_root(r)]

    def _has_root(self, release: Release) -> bool:
        """Whether the kit in the cluster is of this mesh, and not of another one with the same name."""
        root = self._mesh / "kits" / SERVER / "startup" / ROOT
        with contextlib.suppress(DeployError, OSError):
            return self._cluster.secret(release, f"{release.name}-kit", ROOT) == root.read_bytes()
        return False

    # pods

    def _wait_until_ready(self, timeout: float) -> None:
        def not_ready() -> list[str]:
            waiting = [participant.name for participant in self.participants() if not participant.ready]
            for name in waiting:
                if trouble := self._cluster.trouble(self._releases[name]):
                    raise DeployError(f"{name} does not come up: {trouble}")
            return waiting

        if late := wait_while(not_ready, timeout, _POLL_SECONDS):
            events = {name: self._cluster.last_event(self._releases[name]) or "no event" for name in late}
            told = "; ".join(f"{name}: {event}" for name, event in events.items())
            raise DeployError(f"not ready after {timeout:.0f} s: {told}")

    def _participant(self, release: Release) -> Participant:
        pod = self._cluster.pod(release)
        running = pod is not None and pod.metadata.deletion_timestamp is None
        stateful_set = self._cluster.stateful_set(release)
        service = f"http://{release.name}.{release.namespace}.svc:{self._metrics[release.name]}"
        return Participant(
            name=release.name,
            running=running,
            ready=running and stateful_set is not None and is_rolled_out(stateful_set),
            place=f"{release.namespace}/{release.name}-0" if pod else "",
            metrics=f"{service}/metrics" if running else None,
            elsewhere=stateful_set is None and release.name in self._movable,
        )

    def _exec(
        self, participant: str, output: IO[bytes] | int, *command: str, most: int = MOST_ANSWER
    ) -> subprocess.CompletedProcess[bytes]:
        """Write to ``output`` what a command in the pod prints."""
        pod = ("--namespace", self._releases[participant].namespace, f"{participant}-0")
        return call("kubectl", "exec", *pod, "--", *command, output=output, most=most)
