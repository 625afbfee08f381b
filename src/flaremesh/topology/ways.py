"""By what the messages of two neighbours may travel, as far as the topology file decides that."""

from flaremesh.topology.links import Carried, LinkKind, kinds_of
from flaremesh.topology.mesh import Mesh
from flaremesh.topology.schema import Site, Topology


def ways(topology: Topology, one: Site, other: Site) -> list[LinkKind]:
    """The carriers that there are between two neighbours, whatever the run asks for, the best one first."""
    there_are = {
        LinkKind.DIRECT: one.link is not None or other.link is not None,  # whoever can reach the other dials
        LinkKind.MET: topology.meeting_point is not None,
        LinkKind.RELAY: True,
    }
    return [kind for kind, is_there in there_are.items() if is_there]


def carried(topology: Topology, source: Site, target: Site) -> Carried | None:
    """How messages of a run travel if nothing is wrong; None where nothing is left of what it allows."""
    allowed = kinds_of(topology.run.links)
    kind = next((kind for kind in ways(topology, source, target) if kind in allowed), None)
    return None if kind is None else Carried.by(kind, is_dialled_back=target.link is None)


def cut_off(topology: Topology, mesh: Mesh) -> tuple[str, str, str] | None:
    """Two neighbours for which nothing is left of what the run allows.

    Returns:
        The name of one of them, what both lack, and what to do; None where there are none.
    """
    mode = topology.run.links
    sites = {site.name: site for site in topology.sites}
    for one, other in mesh.graph.edges:
        if one == other or kinds_of(mode).intersection(ways(topology, sites[one], sites[other])):
            continue
        if mode == "met":
            return (
                one,
                f"links: met needs a meeting point, and neither {one} nor {other} has one to go to",
                "write meet: {} below server, or links: auto",
            )
        return (
            one,
            f"links: direct needs an address at one of two neighbours; {one} and {other} have none",
            "write link: {host: ..., ports: ...} at one of them, or links: auto",
        )
    return None
