"""Where participants run in Kubernetes: their namespaces, and how NetworkPolicies name them."""

import ipaddress
import re

from flaremesh.errors import FlaremeshError
from flaremesh.provision.values import DialledPeer, Peer
from flaremesh.topology.schema import SERVER, Site, Topology

_ANYWHERE = ("0.0.0.0/0", "::/0")


class PlacementError(FlaremeshError):
    """Host names, namespaces and participants contradict each other."""

    exit_code = 2


def namespace_of(topology: Topology, participant: str) -> str:
    """The namespace of a participant: that of its Service where the topology names it by one.

    Raises:
        PlacementError: the host is a Service in the cluster, but not that of the participant.
    """
    host = _host_of(topology, participant)
    chosen = topology.deploy.namespace if topology.deploy else None
    service = _service(host)
    if service is None:
        return chosen or f"{topology.name}-{participant}"[:63].rstrip("-")
    name, namespace = service
    if name != participant:
        raise PlacementError(
            f"{participant} has the host {host}, and its Service will be called {participant}: "
            f"write {participant}.{namespace}.svc"
        )
    if chosen and chosen != namespace:
        raise PlacementError(
            f"{participant} has the host {host}, and deploy.namespace is {chosen}: "
            f"write {participant}.{chosen}.svc, or remove deploy.namespace"
        )
    return namespace


def may_be_elsewhere(topology: Topology, participant: str) -> bool:
    """Whether a participant may run in another cluster than the others."""
    host = _host_of(topology, participant)
    # a site without an address of its own is where the server's Service is, which it must be able to dial;
    # where the server is no Service, such a site may be anywhere
    return _service(host or topology.server.host) is None


def server_peer(topology: Topology) -> DialledPeer:
    """The server, as the sites' policies see it."""
    server = topology.server
    place = _place(topology, SERVER, dialled=True)
    return DialledPeer(name=SERVER, first_port=server.port, last_port=server.port, **place)


def meeting_peers(topology: Topology) -> tuple[DialledPeer, ...]:
    """The meeting point, as the sites' policies see it, where there is one."""
    if topology.meeting_point is None:
        return ()
    host, port = topology.meeting_point
    service = _service(host)
    # another Service than the server's stands for pods that are called as it is
    name, namespace = service or (SERVER, namespace_of(topology, SERVER))
    cidrs = () if service else _blocks(host)
    return (DialledPeer(name=name, namespace=namespace, cidrs=cidrs, first_port=port, last_port=port),)


def in_neighbour(topology: Topology, site: str) -> Peer:
    """A site that dials, as the policies of the site that it dials see it."""
    return Peer(name=site, **_place(topology, site, dialled=False))


def out_neighbour(topology: Topology, site: Site) -> DialledPeer:
    """A site that is dialled; it has a link address."""
    assert site.link
    first, last = site.link.port_range
    place = _place(topology, site.name, dialled=True)
    return DialledPeer(name=site.name, first_port=first, last_port=last, **place)


def _place(topology: Topology, participant: str, *, dialled: bool) -> dict[str, str | tuple[str, ...]]:
    # a peer that is dialled at an address may still be a pod of this cluster: its node then replaces address
    # and node port by the pod's own before policies are applied, so that they must name the pod too
    place: dict[str, str | tuple[str, ...]] = {"namespace": namespace_of(topology, participant)}
    if may_be_elsewhere(topology, participant):
        host = _host_of(topology, participant)
        place["cidrs"] = _blocks(host) if dialled and host else _ANYWHERE
    return place


def _blocks(host: str) -> tuple[str, ...]:
    try:
        return (str(ipaddress.ip_network(host)),)
    except ValueError:
        return _ANYWHERE  # policies know no names


def _host_of(topology: Topology, participant: str) -> str | None:
    if participant == SERVER:
        return topology.server.host
    site = next(site for site in topology.sites if site.name == participant)
    return site.link.host if site.link else None


def _service(host: str | None) -> tuple[str, str] | None:
    """Name and namespace of the Service that a host name names; None if it names none."""
    match = re.fullmatch(r"([a-z0-9-]+)\.([a-z0-9-]+)\.svc(\.[a-z0-9.-]+)?", host or "")
    return (match[1], match[2]) if match else None
