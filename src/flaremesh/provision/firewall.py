"""Which connections firewalls must let through, as rules and as a page for those who open them."""

from collections.abc import Iterator
from dataclasses import dataclass

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
    """All rules: every site dials the server, and neighbours dial the sites that have a link address."""
    server = topology.server
    for site in topology.sites:
        yield FirewallRule(site.name, SERVER, server.host, str(server.port))
    if topology.run.links == "relay":
        return
    for site in topology.sites:
        if site.link:
            for peer in sorted(mesh.neighbors(site.name), key=mesh.sites.index):
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
