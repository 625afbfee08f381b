"""The Docker target: a container per participant, and a network per pair that may talk."""

import contextlib
import hashlib
import io
import ipaddress
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from docker.client import DockerClient
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.models.networks import Network
from docker.types import DeviceRequest, IPAMConfig, IPAMPool, Mount
from requests.exceptions import RequestException

from flaremesh.deploy.targets.base import (
    AT_ONCE,
    MESH_LABEL,
    Address,
    DeployError,
    Participant,
    at_once,
    threads,
    unpack,
)
from flaremesh.metrics.ask import COMMAND as ASK
from flaremesh.metrics.ask import PORT, PORT_VARIABLE
from flaremesh.metrics.prometheus import DIRECTORY_VARIABLE
from flaremesh.p2p.agents import ServerAgent, SiteAgent
from flaremesh.p2p.agents.kit import PARTS
from flaremesh.p2p.job_processes import COMMAND as END
from flaremesh.p2p.outcome import RUN_FOLDER
from flaremesh.p2p.participant import GPUS_VARIABLE, NAME_VARIABLE, StartError
from flaremesh.provision import firewall
from flaremesh.provision.values import Memory, PodSecurity
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import SERVER, Deploy, Topology

_PARTICIPANT_LABEL = "flaremesh.dev/participant"
_ROOT_LABEL = "flaremesh.dev/root"  # which root certificate the container's kit is of
_USER = PodSecurity().user
_ADDRESSES = ipaddress.IPv4Network("10.213.0.0/16")
_PREFIX = 29  # a network has room for 5 containers, and there may be 8192 networks
_MEMORY = Memory()
_POLL_SECONDS = 0.5
_LOG_LINES = 8


@dataclass(frozen=True)
class _Network:
    """A network to be: its members, and the name under which the others find each, None for nobody."""

    name: str
    hosts: Mapping[str, str | None]
    internal: bool = True


class DockerTarget:
    """Runs the mesh on the engine that the command ``docker`` would use.

    Hosts of the topology file are names that the engine resolves, on each network for the other member only.

    Args:
        topology: the mesh.
        mesh: folder of the provisioned mesh.

    Raises:
        DeployError: no engine answers.
    """

    start_seconds = 60.0  # it pulls no image

    def __init__(self, topology: Topology, mesh: Path):
        self._topology = topology
        self._deploy = topology.deploy or Deploy()
        self._kits = mesh / "kits"
        self._gpus = {site.name: site.gpus for site in topology.sites}
        self._names = [SERVER, *self._gpus]
        self._label = f"{MESH_LABEL}={topology.name}"
        self._engine = engine()

    def up(self, timeout: float) -> list[str]:
        """See Target."""
        self._check_hosts()
        self._check_owners()
        containers = self._containers()
        missing = [name for name in self._names if not _runs(containers.get(name))]
        self._check_images(missing)
        try:
            with _refusals(self._topology.name):
                networks = self._make_networks(missing)
            for name in missing:
                with _refusals(name):
                    self._start(name, containers.get(name), networks)
            self._wait_until_ready(timeout)
        except BaseException:
            self._remove([c for name, c in self._containers().items() if name in missing])
            raise
        return missing

    def down(self) -> list[str]:
        """See Target; the volumes stay, and so does a network with somebody else's container."""
        # a site that left the topology while it was up is stopped too
        containers = self._containers()
        names = dict.fromkeys([*self._names, *containers])
        self._remove(list(containers.values()))
        return [name for name in names if _runs(containers.get(name))]

    def participants(self) -> list[Participant]:
        """See Target."""
        containers = self._containers()
        return at_once(lambda name: self._participant(name, containers.get(name)), self._names)

    def fetch(self, participant: str, run_id: str, folder: Path) -> bool:
        """See Target; it is copied out of the container."""
        container = self._containers().get(participant)
        if container is None:
            return False
        with _refusals(participant), tempfile.TemporaryFile() as archive:
            try:
                chunks, _ = container.get_archive(f"/workspace/{run_id}/{RUN_FOLDER}")
            except NotFound:
                return False
            archive.writelines(chunks)
            archive.seek(0)
            unpack(archive, folder)
        return True

    @contextlib.contextmanager
    def server(self) -> Iterator[Address]:
        """See Target; a port of the engine's machine, which lets only that machine in."""
        container = self._containers().get(SERVER)
        published = container.ports.get(f"{self._topology.server.port}/tcp") if container else None
        if not published:
            raise DeployError("the server's container does not run: `flaremesh up --target docker` starts it")
        yield "localhost", int(published[0]["HostPort"])

    def ask(self, participant: str, path: str) -> bytes | None:
        """See Target."""
        container = self._containers().get(participant)
        return self._ask(container, path) if container else None

    def end_run(self, run_id: str, timeout: float) -> None:
        """See Target."""
        command = [*END, run_id, str(timeout)]
        running = [c for c in self._containers().values() if _runs(c)]
        at_once(lambda container: _output(container, command), running)

    # what must hold before anything starts

    def _hosts(self) -> dict[str, str | None]:
        """By participant, the name that others dial."""
        links = {site.name: site.link.host if site.link else None for site in self._topology.sites}
        return {SERVER: self._topology.server.host} | links

    def _check_hosts(self) -> None:
        owners: dict[str, str] = {}
        for name, host in self._hosts().items():
            if host is None:
                continue
            entry = "server.host" if name == SERVER else f"the host of {name}'s link"
            if _is_address(host):
                raise DeployError(
                    f"{entry} is {host}, where no container of another participant can be: write a name, "
                    f"e.g. `host: {name}`, which Docker resolves."
                )
            if host in owners:
                raise DeployError(
                    f"{owners[host]} and {name} both have the host {host}, but each is a container of its "
                    f"own: write e.g. `host: {name}` at {name}."
                )
            owners[host] = name

    def _check_images(self, names: Iterable[str]) -> None:
        for image in sorted({self._image(name) for name in names}):
            try:
                self._engine.images.get(image)
            except ImageNotFound:
                raise DeployError(
                    f"the Docker engine has no image {image}: `make images` builds it, `docker pull {image}` "
                    "fetches it from its registry; deploy.image in the topology file names another one."
                ) from None

    def _check_owners(self) -> None:
        """Make sure that no container of another mesh has the name of one of ours."""
        for name in self._names:
            with contextlib.suppress(NotFound):
                container = self._engine.containers.get(self._container_name(name))
                if not self._labels(name).items() <= container.labels.items():
                    mesh = container.labels.get(MESH_LABEL)
                    owner = f"another mesh called {mesh}" if mesh else "somebody else"
                    raise DeployError(
                        f"the container {container.name} is that of {owner}. Take it down, or give this mesh "
                        "another name in the topology file."
                    )

    def _labels(self, name: str) -> dict[str, str]:
        return {MESH_LABEL: self._topology.name, _PARTICIPANT_LABEL: name, _ROOT_LABEL: self._root()}

    def _container_name(self, name: str) -> str:
        return f"{self._topology.name}-{name}"

    def _root(self) -> str:
        """Short fingerprint of the root certificate of the kits."""
        return hashlib.sha256(self._kit(SERVER, "startup/rootCA.pem").read_bytes()).hexdigest()[:16]

    def _kit(self, name: str, part: str) -> Path:
        path = self._kits / name / part
        if not path.exists():
            raise DeployError(f"there is no kit of {name} in {self._kits}: run `flaremesh provision` first")
        return path

    # networks

    def _networks(self) -> list[_Network]:
        """The server's own, through which it is published, and one for each pair of the firewall sheet."""
        rules = firewall.rules(self._topology, build(self._topology))
        # an underscore is in no name: no two networks have the same one
        pairs = {
            "_".join([self._topology.name, *pair]): pair
            for rule in rules
            if (pair := sorted([rule.source, rule.target], key=lambda name: (name == SERVER, name)))
        }
        hosts = self._hosts()
        return [
            _Network(f"{self._topology.name}_admin", {SERVER: None}, internal=False),
            *(_Network(name, {member: hosts[member] for member in pair}) for name, pair in pairs.items()),
        ]

    def _make_networks(self, names: Iterable[str]) -> list[_Network]:
        """Make sure that the networks of these participants exist."""
        existing = {network.name for network in self._own_networks()}
        wanted = [network for network in self._networks() if not network.hosts.keys().isdisjoint(names)]
        subnets = self._free_subnets()
        for network in wanted:
            if network.name not in existing:
                self._make_network(network, subnets)
        return wanted

    def _make_network(self, network: _Network, subnets: Iterator[ipaddress.IPv4Network]) -> None:
        # no answer finds its way back from beyond the engine's machine, even on the server's own network
        options = {"com.docker.network.bridge.enable_ip_masquerade": "false"}
        for subnet in subnets:
            try:
                self._engine.networks.create(
                    network.name,
                    driver="bridge",
                    internal=network.internal,
                    options=options,
                    labels={MESH_LABEL: self._topology.name},
                    ipam=IPAMConfig(pool_configs=[IPAMPool(subnet=str(subnet))]),
                    check_duplicate=True,
                )
                return
            except APIError as error:
                if "overlap" not in str(error.explanation):  # somebody took the subnet meanwhile
                    raise
        raise DeployError(
            f"no subnet is left for the network {network.name}: the engine's networks take all of "
            f"{_ADDRESSES}. `docker network prune` removes those that nobody uses."
        )

    def _free_subnets(self) -> Iterator[ipaddress.IPv4Network]:
        """Small ones, since Docker's own choice would be used up after some thirty networks."""
        used = [
            ipaddress.ip_network(pool["Subnet"])
            for network in self._engine.networks.list()
            for pool in network.attrs["IPAM"]["Config"] or ()
            if pool.get("Subnet")
        ]
        for subnet in _ADDRESSES.subnets(new_prefix=_PREFIX):
            if not any(other.version == 4 and subnet.overlaps(other) for other in used):
                yield subnet

    def _own_networks(self) -> list[Network]:
        return list(self._engine.networks.list(filters={"label": self._label}))

    # containers

    def _containers(self) -> dict[str, Container]:
        """The mesh's containers, stopped ones too, by participant."""
        with _refusals(self._topology.name):
            found = self._engine.containers.list(
                all=True, filters={"label": self._label}, ignore_removed=True
            )
        return {container.labels[_PARTICIPANT_LABEL]: container for container in found}

    def _participant(self, name: str, container: Container | None) -> Participant:
        if container is None or not _runs(container):
            return Participant(name, running=False, ready=False, place="", metrics=None)
        # the engine's machine reaches the containers on all networks
        addresses = [
            network["IPAddress"] for network in container.attrs["NetworkSettings"]["Networks"].values()
        ]
        return Participant(
            name=name,
            running=True,
            ready=self._is_ready(container),
            place=container.name,
            metrics=f"http://{addresses[0]}:{PORT}/metrics",
        )

    def _image(self, name: str) -> str:
        return self._deploy.gpu_image if self._gpus.get(name) else self._deploy.image

    def _start(self, name: str, stopped: Container | None, networks: Sequence[_Network]) -> None:
        if stopped:
            stopped.remove(v=True, force=True)
        container = self._create(name, [network for network in networks if name in network.hosts])
        for part in PARTS:
            container.put_archive(f"/workspace/{part}", _archive(self._kit(name, part)))
        container.start()

    def _create(self, name: str, networks: Sequence[_Network]) -> Container:
        """Make the container and attach it to its networks."""
        api = self._engine.api
        agent = ServerAgent if name == SERVER else SiteAgent
        ports = [self._topology.server.port] if name == SERVER else []
        first, *others = networks
        created = api.create_container(
            self._image(name),
            name=self._container_name(name),
            hostname=name,
            user=f"{_USER}:{_USER}",
            labels=self._labels(name),
            environment=self._environment(name),
            ports=ports,
            stop_timeout=int(agent.stop_seconds),
            networking_config=api.create_networking_config(
                {first.name: api.create_endpoint_config(aliases=_aliases(first, name))}
            ),
            host_config=api.create_host_config(
                network_mode=first.name,
                port_bindings=dict.fromkeys(ports, ("127.0.0.1", None)),
                # names that the engine does not know are asked of nobody
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
            self._engine.networks.get(network.name).connect(created["Id"], aliases=_aliases(network, name))
        return self._engine.containers.get(created["Id"])

    def _environment(self, name: str) -> dict[str, str]:
        return {
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
            # the kit's go with the container; a folder of this machine would not be there on another engine
            *(Mount(f"/workspace/{part}", None, type="volume", labels=labels) for part in PARTS),
        ]

    def _device_requests(self, name: str) -> list[DeviceRequest]:
        """GPUs that no other site of the mesh has: the first ones for the first site, and so on."""
        numbers = count()
        taken = {site: [str(n) for n in islice(numbers, gpus)] for site, gpus in self._gpus.items()}
        ids = taken.get(name)
        return [DeviceRequest(driver="nvidia", device_ids=ids, capabilities=[["gpu"]])] if ids else []

    # readiness

    def _wait_until_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        waiting = list(self._names)
        while True:
            containers = self._containers()
            for name in waiting:
                if not _runs(containers.get(name)):
                    raise DeployError(_why_ended(name, containers.get(name)))
            ready = at_once(self._is_ready, [containers[name] for name in waiting])
            waiting = [name for name, answered in zip(waiting, ready, strict=True) if not answered]
            if not waiting:
                return
            if time.monotonic() > deadline:
                logs = "\n".join(
                    f"Last lines of {name}:\n{_last_lines(containers[name])}" for name in waiting
                )
                raise DeployError(f"not ready after {timeout:.0f} s: {', '.join(waiting)}.\n{logs}")
            time.sleep(_POLL_SECONDS)

    def _is_ready(self, container: Container) -> bool:
        return self._ask(container, "/readyz") is not None

    def _ask(self, container: Container, path: str) -> bytes | None:
        return _output(container, [*ASK, path])

    # stopping

    def _remove(self, containers: Sequence[Container]) -> None:
        """Stop these containers, the sites first, since they log out; then remove them and idle networks."""
        sites = [c for c in containers if c.labels[_PARTICIPANT_LABEL] != SERVER]
        servers = [c for c in containers if c.labels[_PARTICIPANT_LABEL] == SERVER]
        with _refusals(self._topology.name):
            at_once(lambda container: _end(container, SiteAgent.stop_seconds), sites)
            at_once(lambda container: _end(container, ServerAgent.stop_seconds), servers)
            for network in self._own_networks():
                network.reload()
                if not network.attrs["Containers"]:
                    network.remove()


def engine() -> DockerClient:
    """The engine that the command ``docker`` would use.

    Raises:
        DeployError: no engine answers.
    """
    try:
        client = DockerClient.from_env(max_pool_size=AT_ONCE)
        client.ping()
    except (DockerException, RequestException) as error:
        raise DeployError(
            f"no Docker engine answers: {error}. `docker info` must work; DOCKER_HOST or "
            "`docker context use` chooses an engine."
        ) from None
    return client


def _size(quantity: str) -> str:
    """A quantity such as 64Mi as Docker writes it."""
    return quantity.removesuffix("i").lower()


def _runs(container: Container | None) -> bool:
    return container is not None and container.status == "running"


def _is_address(host: str) -> bool:
    """An IP address, or a name that every machine has for itself."""
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return host.lower().removesuffix(".").rpartition(".")[2] == "localhost"


def _aliases(network: _Network, participant: str) -> list[str]:
    host = network.hosts[participant]
    return [host] if host else []


def _archive(folder: Path) -> bytes:
    """A part of a kit, which the participant can read and not change; NVFlare's start scripts stay out."""

    def owned(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if entry.name.endswith(".sh"):
            return None
        entry.uid, entry.gid, entry.uname, entry.gname = 0, _USER, "", ""
        entry.mode = 0o550 if entry.isdir() else 0o440
        return entry

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as files:
        files.add(folder, arcname=".", filter=owned)
    return archive.getvalue()


def _output(container: Container, command: Sequence[str]) -> bytes | None:
    """What a command in the container prints, None if it fails."""
    try:
        ended = container.exec_run(list(command), stderr=False)
    except (DockerException, RequestException):  # e.g. it does not run
        return None
    return bytes(ended.output or b"") if ended.exit_code == 0 else None


def _end(container: Container, grace: float) -> None:
    with contextlib.suppress(NotFound):
        if _runs(container):
            container.stop(timeout=int(grace))
        container.remove(v=True, force=True)


def _why_ended(name: str, container: Container | None) -> str:
    if container is None:
        return f"somebody removed the container of {name} while it was starting"
    code, lines = container.attrs["State"]["ExitCode"], _last_lines(container)
    if code == StartError.exit_code:
        return f"{name} does not start: {lines.strip().removeprefix('Error: ')}"
    return f"{name} stopped with exit code {code} while it was starting. Its last lines:\n{lines}"


def _last_lines(container: Container) -> str:
    text = container.logs(tail=_LOG_LINES).decode(errors="replace")
    return "\n".join(f"  {line}" for line in text.splitlines() if line.strip())


@contextlib.contextmanager
def _refusals(subject: str) -> Iterator[None]:
    """Tell what the engine refuses as an error that says whom it concerns."""
    try:
        yield
    except APIError as error:
        raise DeployError(f"{subject}: the Docker engine refuses: {error.explanation}") from None
    except (DockerException, RequestException) as error:
        raise DeployError(f"{subject}: the Docker engine does not answer: {error}") from None
