"""The containers of a mesh: how each is made, and what is asked of those that exist."""

import contextlib
import hashlib
import tarfile
from collections.abc import Iterable, Sequence
from itertools import count, islice
from pathlib import Path

from docker.client import DockerClient
from docker.errors import DockerException, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.types import DeviceRequest, Mount
from requests.exceptions import RequestException

from flaremesh.deploy.targets import archives
from flaremesh.deploy.targets.base import MESH_LABEL, MOST_ANSWER, DeployError, at_once, threads
from flaremesh.deploy.targets.docker.engine import refusals
from flaremesh.deploy.targets.docker.networks import PlannedNetwork
from flaremesh.metrics.ask import PORT, PORT_VARIABLE
from flaremesh.metrics.prometheus import DIRECTORY_VARIABLE
from flaremesh.p2p.agents import ServerAgent, SiteAgent
from flaremesh.p2p.agents.kit import PARTS
from flaremesh.p2p.gate.policy import POLICY, POLICY_VARIABLE
from flaremesh.p2p.nvflare.startup import ROOT
from flaremesh.p2p.participant import GPUS_VARIABLE, NAME_VARIABLE, StartError
from flaremesh.printable import printable
from flaremesh.provision.values import Memory, PodSecurity
from flaremesh.topology.schema import SERVER, Deploy, Topology

_PARTICIPANT_LABEL = "flaremesh.dev/participant"
_ROOT_LABEL = "flaremesh.dev/root"  # fingerprint of the root certificate in the container's kit
_USER = PodSecurity().user
_MEMORY = Memory()
_LOG_LINES = 8
_FOLDER = "/policy"  # not in the workspace, which the participant's user may change
_POLICY = f"{_FOLDER}/{POLICY}"


class Containers:
    """The containers of a mesh, one for each participant.

    Args:
        engine: where they are.
        topology: the mesh.
        kits: folder with the participants' kits.
    """

    def __init__(self, engine: DockerClient, topology: Topology, kits: Path):
        self._engine = engine
        self._topology = topology
        self._kits = kits
        self._deploy = topology.deploy or Deploy()
        self._gpus = {site.name: site.gpus for site in topology.sites}

    def found(self) -> dict[str, Container]:
        """The containers that exist, stopped ones too, by participant."""
        with refusals(self._topology.name):
            found = self._engine.containers.list(
                all=True, filters={"label": f"{MESH_LABEL}={self._topology.name}"}, ignore_removed=True
            )
        return {container.labels[_PARTICIPANT_LABEL]: container for container in found}

    def check_names(self, names: Iterable[str]) -> None:
        """Check that no container of another mesh has the name of one of this mesh.

        Raises:
            DeployError: one has.
        """
        for name in names:
            with contextlib.suppress(NotFound):
                container = self._engine.containers.get(self._name(name))
                if not self._labels(name).items() <= container.labels.items():
                    mesh = container.labels.get(MESH_LABEL)
                    owner = f"another mesh called {mesh}" if mesh else "somebody else"
                    raise DeployError(
                        f"the container {container.name} is that of {owner}. Take it down, or give this mesh "
                        "another name in the topology file."
                    )

    def check_images(self, names: Iterable[str]) -> None:
        """Check that the engine has the images of these participants.

        Raises:
            DeployError: one is missing.
        """
        for image in sorted({self._image(name) for name in names}):
            try:
                self._engine.images.get(image)
            except ImageNotFound:
                raise DeployError(
                    f"the Docker engine has no image {image}: `make images` builds it, `docker pull {image}` "
                    "fetches it from its registry; deploy.image in the topology file names another one."
                ) from None

    def start(self, name: str, networks: Iterable[PlannedNetwork]) -> None:
        """Make a participant's container anew, with its kit, and start it.

        Args:
            name: the participant's; its container, if it has one, does not run.
            networks: of the mesh; it is attached to those that it is a member of.

        Raises:
            DeployError: it has no kit.
        """
        with contextlib.suppress(NotFound):
            self._engine.containers.get(self._name(name)).remove(v=True, force=True)
        container = self._create(name, [network for network in networks if name in network.hosts])
        for part in PARTS:
            container.put_archive(f"/workspace/{part}", archives.of_folder(self._kit(name, part), _owned))
        if (policy := self._policy(name)).exists():
            container.put_archive(_FOLDER, archives.of_files({POLICY: policy.read_bytes()}))
        container.start()

    def remove(self, containers: Sequence[Container]) -> None:
        """Stop and remove these: the sites first, since they log out at the server."""
        sites = [c for c in containers if c.labels[_PARTICIPANT_LABEL] != SERVER]
        servers = [c for c in containers if c.labels[_PARTICIPANT_LABEL] == SERVER]
        at_once(lambda container: _end(container, SiteAgent.stop_seconds), sites)
        at_once(lambda container: _end(container, ServerAgent.stop_seconds), servers)

    def _create(self, name: str, networks: Sequence[PlannedNetwork]) -> Container:
        """Make the container and attach it to its networks."""
        api = self._engine.api
        agent = ServerAgent if name == SERVER else SiteAgent
        ports = [self._topology.server.port] if name == SERVER else []
        first, *others = networks
        created = api.create_container(
            self._image(name),
            name=self._name(name),
            hostname=name,
            user=f"{_USER}:{_USER}",
            labels=self._labels(name),
            environment=self._environment(name),
            ports=ports,
            stop_timeout=int(agent.stop_seconds),
            networking_config=api.create_networking_config(
                {first.name: api.create_endpoint_config(aliases=list(first.hosts[name]))}
            ),
            host_config=api.create_host_config(
                network_mode=first.name,
                port_bindings=dict.fromkeys(ports, ("127.0.0.1", None)),
                # nobody answers there, so that names which the engine does not know are asked nowhere else
                dns=["127.0.0.1"],
                dns_opt=["timeout:2", "attempts:1"],
                read_only=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                tmpfs={
                    "/tmp": f"size={_size(_MEMORY.tmp)},mode=1777",
                    "/metrics": f"size={_size(_MEMORY.metrics)},mode=1777",
                },
                shm_size=_size(_MEMORY.shm),
                mounts=self._mounts(name),
                device_requests=self._device_requests(name),
            ),
        )
        for network in others:
            self._engine.networks.get(network.name).connect(created["Id"], aliases=list(network.hosts[name]))
        return self._engine.containers.get(created["Id"])

    def _name(self, participant: str) -> str:
        return f"{self._topology.name}-{participant}"

    def _image(self, name: str) -> str:
        return self._deploy.gpu_image if self._gpus.get(name) else self._deploy.image

    def _labels(self, name: str) -> dict[str, str]:
        return {MESH_LABEL: self._topology.name, _PARTICIPANT_LABEL: name, _ROOT_LABEL: self._root()}

    def _root(self) -> str:
        """Short fingerprint of the root certificate of the kits."""
        return hashlib.sha256(self._kit(SERVER, f"startup/{ROOT}").read_bytes()).hexdigest()[:16]

    def _kit(self, name: str, part: str) -> Path:
        path = self._kits / name / part
        if not path.exists():
            raise DeployError(f"there is no kit of {name} in {self._kits}: run `flaremesh provision` first")
        return path

    def _policy(self, name: str) -> Path:
        return self._kits / name / POLICY

    def _environment(self, name: str) -> dict[str, str]:
        named = {POLICY_VARIABLE: _POLICY} if self._policy(name).exists() else {}
        return named | {
            NAME_VARIABLE: name,
            PORT_VARIABLE: str(PORT),
            DIRECTORY_VARIABLE: "/metrics",
            GPUS_VARIABLE: str(self._gpus.get(name, 0)),
            **threads(self._engine.info()["NCPU"], len(self._gpus)),
        }

    def _mounts(self, name: str) -> list[Mount]:
        labels = {MESH_LABEL: self._topology.name}
        return [
            Mount("/workspace", f"{self._topology.name}_{name}", type="volume", labels=labels),
            # anonymous, so that they go with the container; a folder of this machine may not be the engine's
            *(Mount(f"/workspace/{part}", None, type="volume", labels=labels) for part in PARTS),
            *([Mount(_FOLDER, None, type="volume", labels=labels)] if self._policy(name).exists() else ()),
        ]

    def _device_requests(self, name: str) -> list[DeviceRequest]:
        """GPUs that no other site of the mesh has: the first ones for the first site, and so on."""
        numbers = count()
        taken = {site: [str(n) for n in islice(numbers, gpus)] for site, gpus in self._gpus.items()}
        ids = taken.get(name)
        return [DeviceRequest(driver="nvidia", device_ids=ids, capabilities=[["gpu"]])] if ids else []


def is_running(container: Container | None) -> bool:
    """Whether it exists and runs."""
    return container is not None and container.status == "running"


def output(container: Container, command: Sequence[str]) -> bytes | None:
    """What a command in the container prints, None if it fails, or prints more than MOST_ANSWER bytes."""
    engine, printed = container.client.api, bytearray()
    try:
        started = engine.exec_create(container.id, list(command), stderr=False)["Id"]
        for chunk in engine.exec_start(started, stream=True):
            printed += chunk
            if len(printed) > MOST_ANSWER:
                return None
        code = engine.exec_inspect(started)["ExitCode"]
    except (DockerException, RequestException):  # e.g. it does not run
        return None
    return bytes(printed) if code == 0 else None


def last_lines(container: Container) -> str:
    """The end of its log, indented."""
    text = container.logs(tail=_LOG_LINES).decode(errors="replace")
    return "\n".join(f"  {printable(line)}" for line in text.splitlines() if line.strip())


def why_ended(name: str, container: Container | None) -> str:
    """The message about a participant whose container ended while it was starting."""
    if container is None:
        return f"somebody removed the container of {name} while it was starting"
    code, lines = container.attrs["State"]["ExitCode"], last_lines(container)
    if code == StartError.exit_code:
        return f"{name} does not start: {lines.strip().removeprefix('Error: ')}"
    return f"{name} stopped with exit code {code} while it was starting. Its last lines:\n{lines}"


def _owned(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """An entry of the kit that the participant can read and not change; None for NVFlare's start scripts."""
    if entry.name.endswith(".sh"):
        return None
    entry.uid, entry.gid, entry.uname, entry.gname = 0, _USER, "", ""
    entry.mode = 0o550 if entry.isdir() else 0o440
    return entry


def _end(container: Container, grace: float) -> None:
    with contextlib.suppress(NotFound):
        if is_running(container):
            container.stop(timeout=int(grace))
        container.remove(v=True, force=True)


def _size(quantity: str) -> str:
    """A quantity such as 64Mi as Docker writes it."""
    return quantity.removesuffix("i").lower()
