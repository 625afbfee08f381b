"""The Docker target: a container per participant, and a network per pair that may talk."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from docker.errors import NotFound
from docker.models.containers import Container
from typing_extensions import override

from flaremesh.deploy.targets.archives import take
from flaremesh.deploy.targets.base import Address, DeployError, Participant, Target, at_once
from flaremesh.deploy.targets.docker.containers import Containers, is_running, last_lines, output, why_ended
from flaremesh.deploy.targets.docker.engine import engine, refusals
from flaremesh.deploy.targets.docker.networks import Networks
from flaremesh.metrics.ask import COMMAND as ASK
from flaremesh.metrics.ask import PORT
from flaremesh.p2p.job_processes import COMMAND as END
from flaremesh.p2p.outcome import RUN_FOLDER
from flaremesh.topology.schema import SERVER, Topology
from flaremesh.waiting import wait_while

_POLL_SECONDS = 0.5


class DockerTarget(Target):
    """Runs the mesh on the engine that the command ``docker`` would use.

    Hosts of the topology file are names that the engine resolves, on each network for the other member only.
    When a mesh is taken down, its volumes stay, and so does a network that a foreign container uses.

    Args:
        topology: the mesh.
        mesh: folder of the provisioned mesh.

    Raises:
        DeployError: no engine answers.
    """

    start_seconds = 60.0  # it pulls no image

    def __init__(self, topology: Topology, mesh: Path):
        self._mesh = topology.name
        self._port = topology.server.port
        self._names = [SERVER, *(site.name for site in topology.sites)]
        connected = engine()
        self._networks = Networks(connected, topology)
        self._containers = Containers(connected, topology, mesh / "kits")

    @override
    def up(self, timeout: float) -> list[str]:
        self._networks.check_hosts()
        self._containers.check_names(self._names)
        containers = self._containers.found()
        missing = [name for name in self._names if not is_running(containers.get(name))]
        self._containers.check_images(missing)
        try:
            with refusals(self._mesh):
                networks = self._networks.make(missing)
            for name in missing:
                with refusals(name):
                    self._containers.start(name, networks)
            self._wait_until_ready(timeout)
        except BaseException:
            self._remove([c for name, c in self._containers.found().items() if name in missing])
            raise
        return missing

    @override
    def down(self) -> list[str]:
        # a site that left the topology while it was up is stopped too
        containers = self._containers.found()
        names = dict.fromkeys([*self._names, *containers])
        self._remove(list(containers.values()))
        return [name for name in names if is_running(containers.get(name))]

    @override
    def participants(self) -> list[Participant]:
        containers = self._containers.found()
        return at_once(lambda name: _participant(name, containers.get(name)), self._names)

    @override
    def fetch(self, participant: str, run_id: str, folder: Path) -> bool:
        container = self._containers.found().get(participant)
        if container is None:
            return False
        with refusals(participant):
            try:
                chunks, _ = container.get_archive(f"/workspace/{run_id}/{RUN_FOLDER}")
            except NotFound:
                return False
            take(chunks, folder)
        return True

    @override
    @contextlib.contextmanager
    def server(self) -> Iterator[Address]:
        container = self._containers.found().get(SERVER)
        # a port of the engine's machine, which lets only that machine in
        published = container.ports.get(f"{self._port}/tcp") if container else None
        if not published:
            raise DeployError("the server's container does not run: `flaremesh up --target docker` starts it")
        yield "localhost", int(published[0]["HostPort"])

    @override
    def ask(self, participant: str, path: str) -> bytes | None:
        container = self._containers.found().get(participant)
        return _ask(container, path) if container else None

    @override
    def end_run(self, run_id: str, timeout: float) -> None:
        command = [*END, run_id, str(timeout)]
        running = [container for container in self._containers.found().values() if is_running(container)]
        at_once(lambda container: output(container, command), running)

    def _wait_until_ready(self, timeout: float) -> None:
        waiting = self._names

        def not_ready() -> dict[str, Container]:
            nonlocal waiting
            containers = self._containers.found()
            for name in waiting:
                if not is_running(containers.get(name)):
                    raise DeployError(why_ended(name, containers.get(name)))
            ready = at_once(_is_ready, [containers[name] for name in waiting])
            waiting = [name for name, answered in zip(waiting, ready, strict=True) if not answered]
            return {name: containers[name] for name in waiting}

        if late := wait_while(not_ready, timeout, _POLL_SECONDS):
            logs = "\n".join(
                f"Last lines of {name}:\n{last_lines(container)}" for name, container in late.items()
            )
            raise DeployError(f"not ready after {timeout:.0f} s: {', '.join(late)}.\n{logs}")

    def _remove(self, containers: Sequence[Container]) -> None:
        with refusals(self._mesh):
            self._containers.remove(containers)
            self._networks.remove_idle()


def _participant(name: str, container: Container | None) -> Participant:
    if container is None or not is_running(container):
        return Participant(name, running=False, ready=False, place="", metrics=None)
    # the engine's machine reaches the containers on all networks
    addresses = [network["IPAddress"] for network in container.attrs["NetworkSettings"]["Networks"].values()]
    return Participant(
        name=name,
        running=True,
        ready=_is_ready(container),
        place=container.name,
        metrics=f"http://{addresses[0]}:{PORT}/metrics",
    )


def _is_ready(container: Container) -> bool:
    return _ask(container, "/readyz") is not None


def _ask(container: Container, path: str) -> bytes | None:
    return output(container, [*ASK, path])
