"""The charters that provisioning writes into kits: what each participant may do."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from flaremesh.issuing import Authority
from flaremesh.p2p.charter import CHARTER_RECORD, Charter, Code, Peer
from flaremesh.signatures import SignatureError, opened, sealed
from flaremesh.topology.links import LinkKind
from flaremesh.topology.mesh import Mesh
from flaremesh.topology.schema import SERVER, LinkAddress, Site, Topology
from flaremesh.topology.ways import ways

CHARTERS: Final = Path("state", "charters.json")
"""In a mesh's folder: the charters, each with its signature."""


def charters(topology: Topology, mesh: Mesh) -> dict[str, Charter]:
    """The charter of each participant; the server and admins have no peers."""
    code = Code(**dict(topology.code))
    # the serial number of a site's certificate for runs follows that of the site's own
    revoked = tuple(
        str(int(serial) + more)
        for serial in sorted(topology.certificates.revoked, key=int)
        for more in (0, 1)
    )
    peers: dict[str, dict[str, Peer]] = {SERVER: {}}
    peers |= {admin.email: {} for admin in topology.admins}
    peers |= _peers(topology, mesh)
    links = {site.name: site.link for site in topology.sites}
    meet = topology.meeting_point
    return {
        name: Charter(topology.name, name, peers[name], code, revoked, meet, *_place(links.get(name)))
        for name in peers
    }


def seal(charters: Mapping[str, Charter], authority: Authority, file: Path) -> dict[str, str]:
    """The charters as documents that the root has signed.

    Args:
        charters: by participant.
        authority: the root.
        file: with the documents of the last provisioning. One that says the same is taken from there: each
            signature differs from the last, and kits shall not change in vain.
    """
    try:
        former = dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        former = {}
    return {name: _sealed(charter, authority, former.get(name)) for name, charter in charters.items()}


def _sealed(charter: Charter, authority: Authority, former: Any) -> str:
    content = CHARTER_RECORD.json(charter)
    try:
        if isinstance(former, str) and opened(former, authority.certificate) == content:
            return former
    except SignatureError:
        pass  # another root's, or damaged
    return sealed(content, authority.key)


def _peers(topology: Topology, mesh: Mesh) -> dict[str, dict[str, Peer]]:
    sites = {site.name: site for site in topology.sites}
    return {
        name: {
            peer: _peer(topology, site, sites[peer], *directions)
            for peer, directions in sorted(_directions(mesh, name).items())
        }
        for name, site in sites.items()
    }


def _directions(mesh: Mesh, site: str) -> dict[str, tuple[bool, bool]]:
    """The sites that share an edge with one: whether it sends to them, and whether it receives from them."""
    targets, sources = set(mesh.graph.successors(site)), set(mesh.graph.predecessors(site))
    return {peer: (peer in targets, peer in sources) for peer in mesh.neighbors(site)}


def _peer(topology: Topology, site: Site, peer: Site, sends: bool, receives: bool) -> Peer:
    is_relayed = topology.run.links in ("auto", "relay")
    carriers = tuple(kind for kind in ways(topology, site, peer) if kind is not LinkKind.RELAY or is_relayed)
    return Peer(sends, receives, carriers, *_place(peer.link))


def _place(link: LinkAddress | None) -> tuple[str | None, tuple[int, int] | None]:
    """Host and ports."""
    return (link.host, link.port_range) if link else (None, None)
