"""The network and the run as the controller gets them: plain dataclasses, JSON in and out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, Self, get_args

from typing_extensions import override

from flaremesh.p2p.json_dataclass import (
    EXTRA_TO_STOCK,
    JsonDataclass,
    NetworkError,
    each,
    listed,
    plain,
    require_json,
)
from flaremesh.printable import printable, refused
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import WeightRule

__all__ = ["Config", "LocalConfig", "Neighbor", "Network", "NetworkError", "Node"]

_ROUNDING: Final = 1e-6  # of sums of float32 weights


@dataclass
class Neighbor(JsonDataclass):
    """An in-neighbour and the weight w_ij with which the node uses its value."""

    id: str
    weight: float | None = None

    def __post_init__(self) -> None:
        self.id, self.weight = plain(self.id), plain(self.weight)


@dataclass
class Node(JsonDataclass):
    """A site and its in-neighbours: one row of the mixing matrix.

    Attributes:
        id: the site.
        neighbors: its in-neighbours.
        weight: w_ii; None for one less the neighbours' weights, so that the row sums to one.
    """

    id: str = None  # type: ignore[assignment]  # as in stock, a node may get its name later
    neighbors: list[Neighbor] = field(default_factory=list)
    weight: float | None = field(default=None, metadata=EXTRA_TO_STOCK)

    def __post_init__(self) -> None:
        self.id, self.weight = plain(self.id), plain(self.weight)
        self.neighbors = each(Neighbor, self.neighbors, f"the neighbors of {self.id}")


@dataclass
class Network(JsonDataclass):
    """The weighted graph.

    Attributes:
        nodes: one per site; by default those of the first phase.
        phases: for a graph that changes, the nodes of each phase; iteration k uses phase k mod len(phases).
    """

    nodes: list[Node] = field(default_factory=list)
    phases: list[list[Node]] = field(default_factory=list, metadata=EXTRA_TO_STOCK)

    def __post_init__(self) -> None:
        self.nodes = each(Node, self.nodes, "the nodes of a network")
        phases = listed(self.phases or [], "the phases of a network")
        self.phases = [each(Node, phase, "a phase of a network") for phase in phases]
        if not self.nodes and self.phases:
            self.nodes = self.phases[0]

    def node(self, site: str) -> Node:
        """The node of a site in the first phase."""
        return next(node for node in self.nodes if node.id == site)

    def matrices(self) -> list[list[list[float]]]:
        """The mixing matrix of each phase, rows and columns in the order of the nodes."""
        schedules = self.schedules()
        return [
            [
                [hood.self_weight if peer == site else hood.in_weights.get(peer, 0.0) for peer in schedules]
                for site, hood in zip(schedules, phase, strict=True)
            ]
            for phase in zip(*schedules.values(), strict=True)
        ]

    def spanning_tree(self) -> dict[str, str]:
        """Child -> parent, breadth first from the first node along the edges of all phases."""
        import networkx as nx  # a fifth of a second that only the server's process has to spend

        edges = [
            (neighbor.id, node.id)
            for phase in self.phases or [self.nodes]
            for node in phase
            for neighbor in node.neighbors
        ]
        root = self.nodes[0].id
        return {child: parent for parent, child in nx.bfs_edges(nx.DiGraph([(root, root), *edges]), root)}

    def schedules(self) -> dict[str, list[Neighborhood]]:
        """Every site's neighbourhood in each phase.

        Raises:
            NetworkError: there are no nodes; or, naming the node, a weight is missing, negative or too great,
                a neighbour is unknown or repeated, or a node is repeated, not in every phase, or has no text
                for its id.
        """
        phases = self.phases or [self.nodes]
        sites = [_site(node) for node in self.nodes]
        if not sites:
            raise NetworkError("the network has no nodes")
        for number, phase in enumerate(phases):
            count = Counter(_site(node) for node in phase)
            if twice := [site for site in count if count[site] > 1]:
                raise NetworkError(f"{twice[0]} is listed twice")
            if odd := count.keys() ^ set(sites):
                raise NetworkError(f"{min(odd)} is not in every phase: see phase {number}")
            for node in phase:
                _check(node, set(sites))
        return {site: [_neighborhood(site, phase) for phase in phases] for site in sites}


def _site(node: Node) -> str:
    if isinstance(node.id, str) and node.id:
        return node.id
    raise NetworkError(
        f"the id of a node must be the name of a site, such as 'site-1', not {refused(node.id)}"
    )


def _in_range(weight: Any) -> bool:
    return isinstance(weight, int | float) and 0 <= weight <= 1


def _check(node: Node, sites: set[str]) -> None:
    names = [neighbor.id for neighbor in node.neighbors]
    if strangers := [name for name in names if not isinstance(name, str) or name not in sites]:
        raise NetworkError(f"{node.id} lists {printable(strangers[0], 80)}, which is no node of the network")
    if len(set(names)) < len(names) or node.id in names:
        raise NetworkError(f"{node.id} lists a neighbour twice or itself")
    total = 0.0
    for neighbor in node.neighbors:
        weight = plain(neighbor.weight)  # again, because it may have been set since
        if not _in_range(weight) or not weight:
            raise NetworkError(
                f"{node.id} gives {neighbor.id} the weight {refused(weight)}; it must lie in (0, 1]"
            )
        total += weight
    if node.weight is not None and not _in_range(plain(node.weight)):
        raise NetworkError(f"{node.id} gives itself the weight {refused(node.weight)}; it must lie in [0, 1]")
    if node.weight is None and total > 1 + _ROUNDING:
        raise NetworkError(f"the weights of {node.id}'s neighbours sum to {total:g}, more than 1")


def _neighborhood(site: str, phase: list[Node]) -> Neighborhood:
    row = next(node for node in phase if node.id == site)
    weights = {neighbor.id: float(neighbor.weight or 0) for neighbor in row.neighbors}
    if row.weight is not None:
        self_weight = float(row.weight)
    else:
        total = sum(weights.values())
        self_weight = max(0.0, 1.0 - total)
        weights = {peer: weight / max(1.0, total) for peer, weight in weights.items()}
    out = tuple(_site(node) for node in phase if any(neighbor.id == site for neighbor in node.neighbors))
    return Neighborhood(site, self_weight, weights, out)


def _dict(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise NetworkError(f"{what} must be a dict, not {refused(value)}")
    return value


def _is_link(value: Any) -> bool:
    match value:
        case {"host": str(), "ports": [int(low), int(high)]} if 0 < low <= high < 1 << 16:
            return len(value) == 2
    return False


@dataclass
class Config(JsonDataclass):
    """What a DistOptController needs.

    Attributes:
        network: the weighted graph.
        extra: options of the run: iterations, stepsize, ...
        links: by site, where its neighbours dial for direct links: {"host": ..., "ports": [low, high]}.
        weights: the rule that gave the network its weights, by which those are made that are left of it when
            sites are gone.
    """

    network: Network
    extra: dict[str, Any] = field(default_factory=dict)
    links: dict[str, dict[str, Any]] = field(default_factory=dict, metadata=EXTRA_TO_STOCK)
    weights: WeightRule = field(default="explicit", metadata=EXTRA_TO_STOCK)

    def __post_init__(self) -> None:
        self.network = Network.of(self.network)
        self.extra = _dict(self.extra, "extra")
        self.links = _dict(self.links, "links")

    @classmethod
    @override
    def of(cls, value: Any) -> Self:
        """As in JsonDataclass, with further checks.

        Raises:
            NetworkError: also if a link is that of no node or of another form, or JSON lacks a value's type.
        """
        config = super().of(value)
        sites = [node.id for node in config.network.nodes]
        for site, link in config.links.items():
            if site not in sites:
                raise NetworkError(f"links tells where to dial {site}, which is no node of the network")
            if not _is_link(link):
                raise NetworkError(f"links must say {{'host': ..., 'ports': [low, high]}} for {site}")
        if config.weights not in get_args(WeightRule):
            raise NetworkError(f"weights must be one of {', '.join(get_args(WeightRule))}")
        try:
            require_json(config.__dict__, "the configuration")
        except RecursionError:
            raise NetworkError("the configuration contains itself; a job's JSON has an end") from None
        return config


@dataclass
class LocalConfig(JsonDataclass):
    """A site's part of the Config.

    Attributes:
        neighbors: in-neighbours of the first phase.
        extra: as in Config.
        schedule: the site's neighbourhood in each phase, as dicts.
        index: position of the site in the network.
        sites: number of sites with which the run began, among which it has its index.
        parent, children: the site's place in a tree of edges from the first site to all that it reaches.
        labels: fields of the result that the controller cannot know; see DistOptController.
        link: where neighbours dial, as in Config; None if they cannot.
        row_stochastic, column_stochastic, symmetric: of the whole network's mixing matrix in every phase.
        hops: the most edges on the way from one site to another; None where there is no way, or nobody says.
        members: names of the sites that take part; empty where nobody says.
        run_id: of the run, which is that of its first attempt's job; empty where nobody says.
    """

    neighbors: list[Neighbor]
    extra: dict[str, Any] = field(default_factory=dict)
    schedule: list[Neighborhood] = field(default_factory=list, metadata=EXTRA_TO_STOCK)
    index: int = field(default=0, metadata=EXTRA_TO_STOCK)
    sites: int = field(default=1, metadata=EXTRA_TO_STOCK)
    parent: str | None = field(default=None, metadata=EXTRA_TO_STOCK)
    children: list[str] = field(default_factory=list, metadata=EXTRA_TO_STOCK)
    labels: dict[str, Any] = field(default_factory=dict, metadata=EXTRA_TO_STOCK)
    link: dict[str, Any] | None = field(default=None, metadata=EXTRA_TO_STOCK)
    row_stochastic: bool = field(default=True, metadata=EXTRA_TO_STOCK)
    column_stochastic: bool = field(default=True, metadata=EXTRA_TO_STOCK)
    symmetric: bool = field(default=True, metadata=EXTRA_TO_STOCK)
    hops: int | None = field(default=None, metadata=EXTRA_TO_STOCK)
    members: list[str] = field(default_factory=list, metadata=EXTRA_TO_STOCK)
    run_id: str = field(default="", metadata=EXTRA_TO_STOCK)

    def __post_init__(self) -> None:
        self.neighbors = each(Neighbor, self.neighbors, "the neighbors of a site")
        self.extra = _dict(self.extra, "extra")
        self.schedule = [
            Neighborhood(**{**n, "out": tuple(n["out"])}) if isinstance(n, dict) else n for n in self.schedule
        ]
