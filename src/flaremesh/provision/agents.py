"""The arguments that kits give the agents of sites and of the server."""

from typing import Any

from flaremesh.provision import firewall
from flaremesh.topology.mesh import Mesh
from flaremesh.topology.schema import SERVER, Topology


def server_agent(topology: Topology) -> dict[str, Any]:
    """The arguments of the ServerAgent."""
    port = topology.meeting_port
    return {"meeting_port": port} if port else {}


def site_agents(topology: Topology, mesh: Mesh) -> dict[str, dict[str, Any]]:
    """The arguments of each site's SiteAgent; relayed edges are left out, so that they change no kit."""
    agents: dict[str, dict[str, Any]] = {
        site.name: {
            "link": {"host": site.link.host, "ports": site.link.port_range} if site.link else None,
            "dials": [],
            "admits": [],
            "gpus": site.gpus,
            "share": topology.shared_by(site),
        }
        for site in topology.sites
    }
    for rule in firewall.rules(topology, mesh):
        if rule.target != SERVER:
            agents[rule.source]["dials"].append({"site": rule.target, "host": rule.host})
            agents[rule.target]["admits"].append(rule.source)
    return agents
