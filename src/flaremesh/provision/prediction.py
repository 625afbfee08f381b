"""How long a run's iterations take on edges that were measured.

A site goes on when the slowest of its neighbours' messages is there: x_i ← max_j (x_j + t_ij), where t_ij is
the time from the start at j until i has mixed what came. That is linear in the max-plus algebra, where the
time of an iteration tends to the greatest mean of t along any circle of the graph (Baccelli, Cohen, Olsder,
Quadrat: Synchronization and Linearity, 1992, chapter 3). So one slow edge delays all sites in the end, and
several delays do not add up.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from flaremesh.errors import FlaremeshError
from flaremesh.p2p.costs import Cost
from flaremesh.provision.measured import MeasuredEdge, Measurement
from flaremesh.topology.analysis import iterations_to
from flaremesh.topology.links import Carried
from flaremesh.topology.mesh import Mesh
from flaremesh.topology.schema import SERVER, Run, Topology, Wire, WireEncoding

_LEFT: Final = {"int8": 1 / 127, "bfloat16": 1.0}
"""What rounding may leave of a disagreement in an iteration; of bfloat16 0.4 % of the values stay."""

_ITERATIONS: Final = 64  # of which the second half counts


class PredictionError(FlaremeshError):
    """The measurement does not have what is to be predicted; the message says what to do."""

    exit_code = 2


class Load(NamedTuple):
    """What one exchange sends over each edge.

    Attributes:
        bytes: of its message.
        entries: of the vectors in it.
    """

    bytes: int
    entries: int


WireLoads: TypeAlias = Sequence[tuple[Wire, Sequence[Load]]]
"""Of the exchanges of an iteration, in this order, with each wire."""


class Lines:
    """What the edges and the machines of a mesh can do.

    Args:
        measurement: of it.

    Attributes:
        edges: (source, target) of those that were measured.
    """

    def __init__(self, measurement: Measurement):
        self.edges = {(edge.source, edge.target): edge for edge in measurement.edges}
        self._why = {(edge.source, edge.target): edge.why for edge in measurement.unmeasured}
        self._costs: Mapping[str, Mapping[str, Cost]] = measurement.costs
        self._up = _capacities((edge.source, edge) for edge in measurement.edges)
        self._down = _capacities((edge.target, edge) for edge in measurement.edges)
        relayed = [edge for edge in measurement.edges if edge.link is Carried.RELAYED]
        self._relay = _capacities((SERVER, edge) for edge in relayed).get(SERVER, 0.0)

    def seconds(self, mesh: Mesh, wire: str, loads: Sequence[Load]) -> float:
        """Of an iteration, on the average of many; without what the problem computes.

        Args:
            mesh: the sites, and the graph.
            wire: name of it.
            loads: of the exchanges of an iteration, in this order.

        Raises:
            PredictionError: an edge of the graph was not measured.
        """
        steps = [self._step(mesh, phase, wire, load) for phase in range(len(mesh.matrices)) for load in loads]
        rounds = -(-_ITERATIONS // len(mesh.matrices))
        begun = np.zeros(len(mesh.sites))
        half = 0.0
        for number in range(2 * rounds):
            if number == rounds:
                half = float(begun.max())
            for step in steps:
                begun = step.after(begun)
        return (float(begun.max()) - half) / (rounds * len(mesh.matrices))

    def _step(self, mesh: Mesh, phase: int, wire: str, load: Load) -> "_Step":
        hoods = [mesh.schedules[site][phase] for site in mesh.sites]
        place = {site: number for number, site in enumerate(mesh.sites)}
        encode, mix = np.zeros(len(hoods)), np.zeros(len(hoods))
        arrows = []
        relayed = sum(self._is_relayed(peer, hood.site) for hood in hoods for peer in hood.in_weights)
        for target, hood in enumerate(hoods):
            cost, into = self._costs.get(hood.site, {}).get(wire, Cost()), len(hood.in_weights)
            encode[target] = cost.encode * load.entries
            mix[target] = (cost.mix + cost.decode * into) * load.entries
            for peer in hood.in_weights:
                source = place[peer]
                out = len(hoods[source].out)
                seconds = self._transfer(peer, hood.site, load.bytes, out, into, relayed)
                arrows.append((source, target, seconds))
        sources, targets, durations = zip(*arrows, strict=True)
        return _Step(encode, mix, np.array(sources), np.array(targets), np.array(durations))

    def _is_relayed(self, source: str, target: str) -> bool:
        edge = self.edges.get((source, target))
        return edge is not None and edge.link is Carried.RELAYED

    def _transfer(self, source: str, target: str, length: int, out: int, into: int, relayed: int) -> float:
        """Seconds until a message is there.

        Args:
            source, target: its edge.
            length: of the message, bytes.
            out: how many leave the source at the same time.
            into: how many come to the target.
            relayed: how many the server relays, this one among them if it is.
        """
        edge = self.edges.get((source, target))
        if edge is None:
            why = self._why.get((source, target), "it is not in the measurement")
            raise PredictionError(
                f"nothing is known of how fast {source} → {target} is: {why}. "
                "Measure the mesh with this edge: `flaremesh up`, then `flaremesh doctor --measure`."
            )
        alone = length / edge.rate
        shared = max(out * length / self._up[source], into * length / self._down[target])
        if edge.link is Carried.RELAYED:
            shared = max(shared, relayed * length / self._relay)
        later = max(0.0, shared - alone)
        # connections that share a line take a round trip until each has found its share
        return edge.round_trip / 2 + alone + later + min(edge.round_trip, later)


@dataclass(frozen=True)
class WireTime:
    """What a run takes with one wire.

    Attributes:
        wire: name of it.
        payload_bytes: that an iteration sends over each edge.
        seconds: of an iteration, without what the problem computes.
        run_seconds: of all iterations of the run.
        mixing_seconds: until mixing alone has the disagreement down to a thousandth of what it was; None for
            never, or where rounding may keep the sites from it.
    """

    wire: str
    payload_bytes: int
    seconds: float
    run_seconds: float
    mixing_seconds: float | None


def wires_of(run: Run) -> list[Wire]:
    """The run's own wire, then the others as a mere word means them."""
    return [run.wire, *(Wire.of(name) for name in get_args(WireEncoding) if name != run.wire.encoding)]


def times(topology: Topology, mesh: Mesh, lines: Lines, loads: WireLoads) -> list[WireTime]:
    """What the run takes on a mesh, with each wire that fits it.

    Args:
        topology: whose run it is.
        mesh: the sites, and a graph.
        lines: what was measured.
        loads: of the exchanges of an iteration, with each wire.

    Raises:
        PredictionError: an edge of the graph was not measured.
    """
    found = []
    for wire, exchanges in loads:
        if wire.unsoundness(len(mesh.matrices)):
            continue
        seconds = lines.seconds(mesh, wire.encoding, exchanges)
        contraction = max(mesh.contraction(wire.step), _LEFT.get(wire.encoding, 0.0))
        count = iterations_to(1e-3, contraction, len(mesh.matrices))
        found.append(
            WireTime(
                wire.encoding,
                sum(load.bytes for load in exchanges),
                seconds,
                seconds * topology.run.iterations,
                None if count is None else seconds * count,
            )
        )
    return found


def _capacities(edges: Iterable[tuple[str, MeasuredEdge]]) -> dict[str, float]:
    """Bytes per second of each site's line: at least what all its edges carry at once, and what one does."""
    busy: dict[str, float] = {}
    alone: dict[str, float] = {}
    for site, edge in edges:
        busy[site] = busy.get(site, 0.0) + edge.busy_rate
        alone[site] = max(alone.get(site, 0.0), edge.rate)
    return {site: max(rate, alone[site]) for site, rate in busy.items()}


class _Step(NamedTuple):
    """One exchange.

    Attributes:
        encode, mix: (n,) seconds of each site.
        sources, targets, seconds: (m,) of each edge.
    """

    encode: NDArray[np.float64]
    mix: NDArray[np.float64]
    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    seconds: NDArray[np.float64]

    def after(self, begun: NDArray[np.float64]) -> NDArray[np.float64]:
        """When each site (n,) is through, from when it began."""
        sent = begun + self.encode
        have = sent.copy()
        np.maximum.at(have, self.targets, sent[self.sources] + self.seconds)
        return have + self.mix
