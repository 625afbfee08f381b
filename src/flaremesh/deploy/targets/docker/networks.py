"""The networks of a mesh on Docker: one for each pair of participants that may talk."""

import contextlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from docker.client import DockerClient
from docker.errors import APIError
from docker.models.networks import Network
from docker.types import IPAMConfig, IPAMPool

from flaremesh.deploy.targets.base import MESH_LABEL, DeployError
from flaremesh.provision import firewall
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import SERVER, Topology

_ADDRESSES = ipaddress.IPv4Network("10.213.0.0/16")
_PREFIX = 29  # a network has room for 5 containers, and there may be 8192 networks


@dataclass(frozen=True)
class PlannedNetwork:
    """A network as it is to be.

    Attributes:
        name: its name.
        hosts: by member, the names under which the others find it.
        internal: whether nothing outside of the engine's machine is reached from it.
    """

    name: str
    hosts: Mapping[str, Sequence[str]]
    internal: bool = True


class Networks:
    """The networks of a mesh.

    Args:
        engine: where they are.
        topology: the mesh.
    """

    def __init__(self, engine: DockerClient, topology: Topology):
        self._engine = engine
        self._topology = topology
        server = [topology.server.host]
        if topology.meeting_point and topology.meeting_point[0] not in server:
            server.append(topology.meeting_point[0])
        self._hosts = {
            SERVER: server,
            **{site.name: [site.link.host] if site.link else [] for site in topology.sites},
        }

    def check_hosts(self) -> None:
        """Check that every participant can have the name that others dial.

        Raises:
            DeployError: it is an address, or two have the same name; or the meeting point has another name.
        """
        if self._topology.meeting_point and not self._topology.meeting_port:
            raise DeployError(
                f"server.meet.host is {self._topology.meeting_point[0]}, and containers of a mesh reach "
                "nothing beyond it: leave it out, or write it into server.names too."
            )
        owners: dict[str, str] = {}
        for name, host in ((name, host) for name, hosts in self._hosts.items() for host in hosts):
            entry = f"the host of {name}'s link"
            if name == SERVER:
                entry = "server.host" if host == self._topology.server.host else "server.meet.host"
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

    def make(self, names: Iterable[str]) -> list[PlannedNetwork]:
        """Make the networks of these participants that do not exist; returns all of theirs.

        Raises:
            DeployError: no subnet is left.
        """
        existing = {network.name for network in self._existing()}
        wanted = [network for network in self._planned() if not network.hosts.keys().isdisjoint(names)]
        subnets = self._free_subnets()
        for network in wanted:
            if network.name not in existing:
                self._create(network, subnets)
        return wanted

    def remove_idle(self) -> None:
        """Remove those in which no container is left, of this mesh or of others."""
        for network in self._existing():
            network.reload()
            if not network.attrs["Containers"]:
                network.remove()

    def _planned(self) -> list[PlannedNetwork]:
        """The server's own, through which it is published, and one for each pair of the firewall sheet."""
        rules = firewall.rules(self._topology, build(self._topology))
        # names of participants have no underscore, so no two pairs give one name
        pairs = {
            "_".join([self._topology.name, *pair]): pair
            for rule in rules
            if (pair := sorted([rule.source, rule.target], key=lambda name: (name == SERVER, name)))
        }
        return [
            PlannedNetwork(f"{self._topology.name}_admin", {SERVER: []}, internal=False),
            *(
                PlannedNetwork(name, {member: self._hosts[member] for member in pair})
                for name, pair in pairs.items()
            ),
        ]

    def _create(self, network: PlannedNetwork, subnets: Iterator[ipaddress.IPv4Network]) -> None:
        # without masquerading nobody beyond the engine's machine can answer, even on the server's own network
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
                if "overlap" not in str(error.explanation):  # the subnet was taken meanwhile
                    raise
        raise DeployError(
            f"no subnet is left for the network {network.name}: the engine's networks take all of "
            f"{_ADDRESSES}. `docker network prune` removes those that nobody uses."
        )

    def _free_subnets(self) -> Iterator[ipaddress.IPv4Network]:
        """Small subnets, since Docker's own ones are used up after some thirty networks."""
        used = [
            ipaddress.ip_network(pool["Subnet"])
            for network in self._engine.networks.list()
            for pool in network.attrs["IPAM"]["Config"] or ()
            if pool.get("Subnet")
        ]
        for subnet in _ADDRESSES.subnets(new_prefix=_PREFIX):
            if not any(other.version == 4 and subnet.overlaps(other) for other in used):
                yield subnet

    def _existing(self) -> list[Network]:
        return list(self._engine.networks.list(filters={"label": f"{MESH_LABEL}={self._topology.name}"}))


def _is_address(host: str) -> bool:
    """Whether it is an IP address, or a name that every machine has for itself."""
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return host.lower().removesuffix(".").rpartition(".")[2] == "localhost"
