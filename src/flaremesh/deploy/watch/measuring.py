"""How fast a mesh's edges are: each by itself, then all at the same time.

First a site takes part in one measurement at a time, so that the figures are those of an edge. The last ones
say what its line carries when it serves all neighbours, as in a run.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, TypeAlias

from flaremesh.deploy.outdated import dialled
from flaremesh.deploy.targets.base import Target, ask_each, at_once
from flaremesh.p2p import costs
from flaremesh.p2p.agents.doctor import EDGES, MEASURE_PATH, Asked, Edge
from flaremesh.provision.measured import MeasuredEdge, Measurement, Unmeasured
from flaremesh.record import RecordError
from flaremesh.topology.links import Carried, LinkKind, kinds_of
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import SERVER, Topology
from flaremesh.topology.ways import carried, ways


class Pair(NamedTuple):
    """Two neighbours.

    Attributes:
        dialler: the one that measures.
        peer: the other one.
        kind: by what they are linked.
    """

    dialler: str
    peer: str
    kind: LinkKind = LinkKind.DIRECT


Found: TypeAlias = Mapping[Pair, Edge]
"""What the diallers tell."""


def pairs_of(topology: Topology) -> list[Pair]:
    """The neighbours for which there is a way that the run may take, each pair once."""
    dials, wanted = dialled(topology), kinds_of(topology.run.links)
    sites = {site.name: site for site in topology.sites}
    pairs: dict[frozenset[str], Pair] = {}
    for one, other in build(topology).graph.edges:
        if one == other or frozenset((one, other)) in pairs:
            continue
        there_are = ways(topology, sites[one], sites[other])
        kind = next((kind for kind in there_are if kind in wanted), None)
        if kind is None:
            continue
        if kind is LinkKind.DIRECT:
            dialler, peer = (one, other) if other in dials[one] else (other, one)
        else:
            dialler, peer = sorted((one, other))
        pairs[frozenset((one, other))] = Pair(dialler, peer, kind)
    return list(pairs.values())


def turns_of(pairs: Iterable[Pair]) -> list[list[Pair]]:
    """The pairs in turns, in each of which a site is in one pair at most."""
    turns: list[list[Pair]] = []
    for pair in pairs:
        ends = set(pair[:2])
        turn = next((turn for turn in turns if not any(ends & {*other[:2]} for other in turn)), None)
        if turn is None:
            turns.append(turn := [])
        turn.append(pair)
    return turns


def measure(topology: Topology, target: Target, tell: Callable[[str], None]) -> Measurement:
    """Measure all edges of a mesh that is up, while no run goes on.

    Args:
        topology: the mesh.
        target: where it is up.
        tell: called with what is going on.

    Raises:
        DeployError: the target cannot be asked.
        GraphError, MissingExtra: the mesh cannot be built from the topology.
    """
    pairs = pairs_of(topology)
    turns = turns_of(pairs)
    tell(f"Measuring {len(pairs)} links in {len(turns) + 1} turns of some seconds each.")
    alone = {pair: edge for turn in turns for pair, edge in _asked(target, turn).items()}
    busy = _asked(target, pairs)
    sites = [each for each in target.participants() if each.name != SERVER]
    told = ask_each(target, sites, costs.PATH, _costs)
    return together(topology, alone, busy, {site: known for site, known in told.items() if known})


def together(topology: Topology, alone: Found, busy: Found, known: Mapping[str, costs.Costs]) -> Measurement:
    """What was found, by directed edge.

    Args:
        topology: the mesh.
        alone: each pair by itself.
        busy: all at the same time.
        known: what wires cost, by site.
    """
    measured, unmeasured = [], []
    pairs = {frozenset(pair[:2]): pair for pair in alone}
    sites = {site.name: site for site in topology.sites}
    for source, target in build(topology).graph.edges:
        pair = pairs.get(frozenset((source, target)))
        if source == target:
            continue
        if pair is None:
            why = f"there is no way for links: {topology.run.links}"
            unmeasured.append(Unmeasured(source, target, why))
            continue
        one, many = alone[pair], busy[pair]
        if one.speed is None or many.speed is None:
            why = one.reason or many.reason or f"{pair.dialler} tells no speed: does it run this version?"
            unmeasured.append(Unmeasured(source, target, why.removesuffix(".")))
            continue
        is_sent = pair.dialler == source
        measured.append(
            MeasuredEdge(
                source,
                target,
                one.speed.round_trip,
                one.speed.sent if is_sent else one.speed.received,
                many.speed.sent if is_sent else many.speed.received,
                carried(topology, sites[source], sites[target]) or Carried.RELAYED,
            )
        )
    taken = datetime.now(UTC).isoformat(timespec="seconds")
    return Measurement(topology.name, taken, measured, unmeasured, known)


def _asked(target: Target, pairs: Sequence[Pair]) -> dict[Pair, Edge]:
    """What all diallers find out at the same time."""
    diallers = sorted({pair.dialler for pair in pairs})

    def ask(dialler: str) -> dict[str, Edge]:
        asked = Asked(
            *(
                [pair.peer for pair in pairs if (pair.dialler, pair.kind) == (dialler, kind)]
                for kind in (LinkKind.DIRECT, LinkKind.MET, LinkKind.RELAY)
            )
        )
        told = target.ask(dialler, f"{MEASURE_PATH}?{asked.query()}")
        try:
            return {edge.peer: edge for edge in EDGES.read(told or b"", f"what {dialler} tells")}
        except RecordError:
            return {}

    found = dict(zip(diallers, at_once(ask, diallers), strict=True))
    return {
        pair: found[pair.dialler].get(
            pair.peer,
            Edge(
                pair.peer, "", None, f"{pair.dialler} does not answer, or is of another version of flaremesh"
            ),
        )
        for pair in pairs
    }


def _costs(told: bytes) -> costs.Costs:
    try:
        return costs.COSTS.read(told, "what an agent tells")
    except RecordError as error:
        raise ValueError(str(error)) from None
