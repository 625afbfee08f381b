"""The sheet for those who open firewalls."""

from flaremesh.provision.plan import firewall
from flaremesh.topology.mesh import Mesh
from flaremesh.topology.schema import Topology


def sheet(topology: Topology, mesh: Mesh) -> str:
    """Who must reach whom on which port, as Markdown."""
    rules = firewall(topology, mesh)
    return "\n".join(
        [
            f"# Firewall sheet of {topology.name}",
            "",
            "Each line is a TCP connection that the first participant opens; TLS proves who both ends are.",
            "",
            "| from | to | host | ports |",
            "|---|---|---|---|",
            *(f"| {rule.source} | {rule.target} | {rule.host} | {rule.ports} |" for rule in rules),
            "",
        ]
    )
