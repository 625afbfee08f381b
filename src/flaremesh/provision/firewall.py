"""Which connections firewalls must let through, as rules and as a page for those who open them."""

from collections.abc import Iterator
from dataclasses import dataclass

from flaremesh.topology.links import LinkKind, kinds_of
from flaremesh.topology.mesh import Mesh
from flaremesh.topology.schema import SERVER, Topology


@dataclass(frozen=True)
class FirewallRule:
    """``source`` must be able to open a TCP connection to ``target`` at ``host``, one of ``ports``."""

    source: str
    target: str
    host: str
    ports: str


def rules(topology: Topology, mesh: Mesh) -> Iterator[FirewallRule]:
    """All rules: every site dials the server, and the meeting point; those that have an address are dialled.

    Their in-neighbours do so, and those out-neighbours that nobody can dial.
    """
    server, kinds = topology.server, kinds_of(topology.run.links)
    for site in topology.sites:
        yield FirewallRule(site.name, SERVER, server.host, str(server.port))
        if topology.meeting_point and LinkKind.MET in kinds:
            host, port = topology.meeting_point
            yield FirewallRule(site.name, SERVER, host, str(port))
    if LinkKind.DIRECT not in kinds:
        return
    listening = {site.name for site in topology.sites if site.link}
    for site in topology.sites:
        if site.link:
            for peer in sorted(mesh.neighbors(site.name), key=mesh.sites.index):
                if mesh.graph.has_edge(peer, site.name) or peer not in listening:
                    yield FirewallRule(peer, site.name, site.link.host, site.link.ports)


def sheet(topology: Topology, mesh: Mesh) -> str:
    """The rules as Markdown."""
    return "\n".join(
        [
            f"# Firewall sheet of {topology.name}",
            "",
            "Each line is a TCP connection that the first participant opens; TLS proves who both ends are.",
            "",
            "| from | to | host | ports |",
            "|---|---|---|---|",
            *(
                f"| {rule.source} | {rule.target} | {rule.host} | {rule.ports} |"
                for rule in rules(topology, mesh)
            ),
            "",
        ]
    )
