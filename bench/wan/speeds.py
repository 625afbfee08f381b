"""Edges as `flaremesh doctor --measure` measures them, in the processes of a bench's sites.

Sites know by the barrier where and when to dial; the rest is what their agents do.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import processes
from bench.processes import Place, Site
from flaremesh.deploy.watch.measuring import Pair, together, turns_of
from flaremesh.p2p import costs
from flaremesh.p2p.agents.doctor import EDGES, Edge
from flaremesh.p2p.agents.probe import Failure, ProbeListener, measure, straight
from flaremesh.provision.measured import Measurement
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import Topology

_ANY_PORT = (0, 0)


def measured(topology: Topology, kits: Path, folder: Path, places: Mapping[str, Place]) -> Measurement:
    """Measure the mesh of a topology whose sites are in ``places``; see `bench.processes.run`.

    Raises:
        RuntimeError: it failed.
    """
    told = processes.run(__name__, build(topology), kits, [], folder, places)

    def found(which: str) -> dict[Pair, Edge]:
        return {
            Pair(site, edge.peer): edge for site, each in told.items() for edge in EDGES.of(each[which], site)
        }

    known = {site: costs.COSTS.of(each["costs"], site) for site, each in told.items()}
    return together(topology, found("alone"), found("busy"), known)


def run(site: Site) -> dict[str, Any]:
    """What one site finds of the edges that it dials: of two neighbours, the one with the lesser name."""
    neighbours = site.gather([*site.hood.in_weights]).items()
    pairs = sorted({Pair(*sorted((one, other))) for one, others in neighbours for other in others})
    listener = ProbeListener(site.hood.site, site.place.host, _ANY_PORT, site.credentials)
    alone = [edge for turn in turns_of(pairs) for edge in _turn(site, listener, turn)]
    busy = _turn(site, listener, pairs)
    own = {}
    for each in site.sites:  # one after the other: a site has a machine of its own
        site.gather()
        if each == site.hood.site:
            own = costs.COSTS.data(costs.COSTS.read(costs.measured(), each))
    return {"alone": EDGES.data(alone), "busy": EDGES.data(busy), "costs": own}


def _turn(site: Site, listener: ProbeListener, pairs: Sequence[Pair]) -> list[Edge]:
    """Measure these pairs at the same time."""
    name, host = site.hood.site, site.place.host
    found: list[Edge] = []
    expected = {pair.dialler: (host, *listener.expect(pair.dialler)) for pair in pairs if pair.peer == name}
    invitations = site.gather(expected)

    def attempt(peer: str) -> None:
        there, port, run_id = invitations[peer][name]
        speed = measure(name, peer, straight(name, peer, (there, port), run_id), site.credentials)
        if isinstance(speed, Failure):
            found.append(Edge(peer, "", False, speed.what, speed.remedy))
        else:
            found.append(Edge(peer, "", True, speed=speed))

    threads = [threading.Thread(target=attempt, args=[p.peer]) for p in pairs if p.dialler == name]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    site.gather()
    return found
