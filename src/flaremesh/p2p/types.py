"""The network and the run as the controller gets them: plain dataclasses, JSON in and out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from flaremesh.topology.neighborhood import Neighborhood


@dataclass
class Neighbor:
    """An in-neighbour and the weight w_ij with which the node uses its value."""

    id: str
    weight: float | None = None


@dataclass
class Node:
    """A site and its in-neighbours: one row of the mixing matrix.

    Attributes:
        id: the site.
        neighbors: its in-neighbours.
        weight: w_ii; None for rows that sum to one, where the site keeps what its neighbours leave.
    """

    id: str
    neighbors: list[Neighbor] = field(default_factory=list)
    weight: float | None = None

    def __post_init__(self) -> None:
        self.neighbors = [Neighbor(**n) if isinstance(n, dict) else n for n in self.neighbors]


@dataclass
class Network:
    """The weighted graph.

    Attributes:
        nodes: one per site; by default those of the first phase.
        phases: for a graph that changes, the nodes of each phase; iteration k uses phase k mod len(phases).
    """

    nodes: list[Node] = field(default_factory=list)
    phases: list[list[Node]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.nodes = [Node(**n) if isinstance(n, dict) else n for n in self.nodes]
        self.phases = [[Node(**n) if isinstance(n, dict) else n for n in phase] for phase in self.phases]
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

        Raises ValueError that names the node for a missing, negative or excessive weight, an unknown or
        repeated neighbour, a repeated node, and a phase that lacks a node; and for a network without nodes.
        """
        phases = self.phases or [self.nodes]
        sites = [node.id for node in self.nodes]
        if not sites:
            raise ValueError("the network has no nodes")
        for number, phase in enumerate(phases):
            count = Counter(node.id for node in phase)
            if twice := [site for site in count if count[site] > 1]:
                raise ValueError(f"{twice[0]} is listed twice")
            if odd := count.keys() ^ set(sites):
                raise ValueError(f"{min(odd)} is not in every phase: see phase {number}")
            for node in phase:
                _check(node, set(sites))
        return {site: [_neighborhood(site, phase) for phase in phases] for site in sites}


def _check(node: Node, sites: set[str]) -> None:
    names = [neighbor.id for neighbor in node.neighbors]
    if len(set(names)) < len(names) or node.id in names:
        raise ValueError(f"{node.id} lists a neighbour twice or itself")
    total = 0.0
    for neighbor in node.neighbors:
        if neighbor.id not in sites:
            raise ValueError(f"{node.id} lists {neighbor.id}, which is no node of the network")
        if neighbor.weight is None or not 0 < neighbor.weight <= 1:
            raise ValueError(
                f"{node.id} gives {neighbor.id} the weight {neighbor.weight}; it must lie in (0, 1]"
            )
        total += neighbor.weight
    if node.weight is not None and not 0 <= node.weight <= 1:
        raise ValueError(f"{node.id} gives itself the weight {node.weight}; it must lie in [0, 1]")
    if node.weight is None and total > 1 + 1e-9:
        raise ValueError(f"the weights of {node.id}'s neighbours sum to {total:g}, more than 1")


def _neighborhood(site: str, phase: list[Node]) -> Neighborhood:
    row = next(node for node in phase if node.id == site)
    weights = {neighbor.id: float(neighbor.weight or 0) for neighbor in row.neighbors}
    out = tuple(node.id for node in phase if any(neighbor.id == site for neighbor in node.neighbors))
    self_weight = 1.0 - sum(weights.values()) if row.weight is None else row.weight
    return Neighborhood(site, self_weight, weights, out)


@dataclass
class Config:
    """What a DistOptController needs.

    Attributes:
        network: the weighted graph.
        extra: the run: iterations, stepsize, ...
        links: by site, where its neighbours dial for direct links: {"host": ..., "ports": [low, high]}.
    """

    network: Network
    extra: dict[str, Any] = field(default_factory=dict)
    links: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.network, dict):
            self.network = Network(**self.network)


@dataclass
class LocalConfig:
    """A site's part of the Config.

    Attributes:
        neighbors: in-neighbours of the first phase.
        extra: as in Config.
        schedule: the site's neighbourhood in each phase, as dicts.
        index: position of the site in the network.
        sites: number of sites.
        parent, children: the site's place in a tree of edges from the first site to all that it reaches.
        labels: what the run is called; see DistOptController.
        link: where neighbours dial, as in Config; None if they cannot.
        row_stochastic, column_stochastic: of the whole network's mixing matrix in every phase.
    """

    neighbors: list[Neighbor]
    extra: dict[str, Any] = field(default_factory=dict)
    schedule: list[Neighborhood] = field(default_factory=list)
    index: int = 0
    sites: int = 1
    parent: str | None = None
    children: list[str] = field(default_factory=list)
    labels: dict[str, Any] = field(default_factory=dict)
    link: dict[str, Any] | None = None
    row_stochastic: bool = True
    column_stochastic: bool = True

    def __post_init__(self) -> None:
        self.neighbors = [Neighbor(**n) if isinstance(n, dict) else n for n in self.neighbors]
        self.schedule = [
            Neighborhood(**{**n, "out": tuple(n["out"])}) if isinstance(n, dict) else n for n in self.schedule
        ]
