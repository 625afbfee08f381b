"""The network and the run as the controller gets them: plain dataclasses, JSON in and out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any, Final, Self, TypeVar

from flaremesh.errors import FlaremeshError
from flaremesh.topology.neighborhood import Neighborhood

_OURS: Final = {"ours": True}  # marks fields that stock's JSON does not have: written only where they are set
_ROUNDING = 1e-6  # of sums of float32 weights


class NetworkError(FlaremeshError, ValueError):
    """A network or a configuration makes no sense, or no job can carry it."""

    exit_code = 2


class _Instance:
    """Holds the ``__dict__`` of Python, behind the one that the dataclasses below show."""


_attributes = vars(_Instance)["__dict__"].__get__


class _Json(_Instance):
    """A dataclass whose ``__dict__`` is its JSON.

    FedJob writes the objects among a component's arguments by their ``__dict__``, and NVFlare builds them
    again from it.
    """

    @classmethod
    def of(cls, value: Any) -> Self:
        """``value`` itself, or one made of a dict or of another package's dataclass of the same fields.

        Raises NetworkError for anything else, and for unknown or missing fields.
        """
        if isinstance(value, cls):
            return value
        known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]  # all subclasses are dataclasses
        if isinstance(value, Mapping):
            given = dict(value)
        elif is_dataclass(value) and not isinstance(value, type):
            given = {f.name: getattr(value, f.name) for f in fields(value)}
        else:
            raise NetworkError(f"{value!r} is no {cls.__name__}; give one, or a dict with {', '.join(known)}")
        if unknown := given.keys() - known.keys():
            raise NetworkError(
                f"a {cls.__name__} has no field {min(map(repr, unknown))}, only {', '.join(known)}"
            )
        for name, f in known.items():
            if name not in given and f.default is MISSING and f.default_factory is MISSING:
                raise NetworkError(f"a {cls.__name__} needs the field {name}, and {value!r} has none")
        return cls(**given)

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]  # Python allows it, and FedJob asks for it
        values = [(f, getattr(self, f.name)) for f in fields(self)]  # type: ignore[arg-type]  # as above
        return {
            f.name: _plain(value) for f, value in values if "ours" not in f.metadata or value != _default(f)
        }

    def __getstate__(self) -> dict[str, Any]:
        return dict(_attributes(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        _attributes(self).update(state)


def _default(f: Field[Any]) -> Any:
    return f.default if f.default_factory is MISSING else f.default_factory()


_AnyJson = TypeVar("_AnyJson", bound=_Json)


def _list(values: Any, what: str) -> list[Any]:
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise NetworkError(f"{what} must be a list, not {values!r}")
    return list(values)


def _each(kind: type[_AnyJson], values: Any, what: str) -> list[_AnyJson]:
    return [kind.of(value) for value in _list(values, what)]


def _plain(value: Any) -> Any:
    """``value`` in JSON's types; what JSON does not know stays as it is."""
    if isinstance(value, _Json):
        return value.__dict__
    if isinstance(value, Neighborhood):
        return asdict(value)
    if isinstance(value, Enum):
        return _plain(value.value)
    if hasattr(value, "tolist"):  # numpy's and torch's numbers and arrays
        return value.tolist()
    if isinstance(value, Mapping):
        return {_plain(key) if hasattr(key, "tolist") else key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _require_json(value: Any, place: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str | int | float | None):
                raise NetworkError(f"{place} has the key {key!r}, and a job's JSON knows only text there")
            _require_json(item, f"{place}[{key!r}]")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _require_json(item, f"{place}[{index}]")
    elif not isinstance(value, str | int | float | None):
        raise NetworkError(
            f"{place} is of the type {type(value).__name__}, which a job's JSON cannot carry; "
            "it knows numbers, texts, lists and dicts"
        )


@dataclass
class Neighbor(_Json):
    """An in-neighbour and the weight w_ij with which the node uses its value."""

    id: str
    weight: float | None = None

    def __post_init__(self) -> None:
        self.id, self.weight = _plain(self.id), _plain(self.weight)


@dataclass
class Node(_Json):
    """A site and its in-neighbours: one row of the mixing matrix.

    Attributes:
        id: the site.
        neighbors: its in-neighbours.
        weight: w_ii; None for rows that sum to one, where the site keeps what its neighbours leave.
    """

    id: str = None  # type: ignore[assignment]  # as in stock, a node may get its name later
    neighbors: list[Neighbor] = field(default_factory=list)
    weight: float | None = field(default=None, metadata=_OURS)

    def __post_init__(self) -> None:
        self.id, self.weight = _plain(self.id), _plain(self.weight)
        self.neighbors = _each(Neighbor, self.neighbors, f"the neighbors of {self.id}")


@dataclass
class Network(_Json):
    """The weighted graph.

    Attributes:
        nodes: one per site; by default those of the first phase.
        phases: for a graph that changes, the nodes of each phase; iteration k uses phase k mod len(phases).
    """

    nodes: list[Node] = field(default_factory=list)
    phases: list[list[Node]] = field(default_factory=list, metadata=_OURS)

    def __post_init__(self) -> None:
        self.nodes = _each(Node, self.nodes, "the nodes of a network")
        phases = _list(self.phases or [], "the phases of a network")
        self.phases = [_each(Node, phase, "a phase of a network") for phase in phases]
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

        Raises NetworkError that names the node for a missing, negative or excessive weight, an unknown or
        repeated neighbour, a repeated node, a node whose id is no text, and a phase that lacks a node; and
        for a network without nodes.
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
    raise NetworkError(f"a node has the id {node.id!r}; it must be the name of a site, such as 'site-1'")


def _in_range(weight: Any) -> bool:
    return isinstance(weight, int | float) and 0 <= weight <= 1


def _check(node: Node, sites: set[str]) -> None:
    names = [neighbor.id for neighbor in node.neighbors]
    if strangers := [name for name in names if not isinstance(name, str) or name not in sites]:
        raise NetworkError(f"{node.id} lists {strangers[0]}, which is no node of the network")
    if len(set(names)) < len(names) or node.id in names:
        raise NetworkError(f"{node.id} lists a neighbour twice or itself")
    total = 0.0
    for neighbor in node.neighbors:
        weight = _plain(neighbor.weight)  # again, because it may have been set since
        if not _in_range(weight) or not weight:
            raise NetworkError(f"{node.id} gives {neighbor.id} the weight {weight!r}; it must lie in (0, 1]")
        total += weight
    if node.weight is not None and not _in_range(_plain(node.weight)):
        raise NetworkError(f"{node.id} gives itself the weight {node.weight!r}; it must lie in [0, 1]")
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
        raise NetworkError(f"{what} must be a dict, not {value!r}")
    return value


def _is_link(value: Any) -> bool:
    match value:
        case {"host": str(), "ports": [int(low), int(high)]} if 0 < low <= high < 1 << 16:
            return len(value) == 2
    return False


@dataclass
class Config(_Json):
    """What a DistOptController needs.

    Attributes:
        network: the weighted graph.
        extra: the run: iterations, stepsize, ...
        links: by site, where its neighbours dial for direct links: {"host": ..., "ports": [low, high]}.
    """

    network: Network
    extra: dict[str, Any] = field(default_factory=dict)
    links: dict[str, dict[str, Any]] = field(default_factory=dict, metadata=_OURS)

    def __post_init__(self) -> None:
        self.network = Network.of(self.network)
        self.extra = _dict(self.extra, "extra")
        self.links = _dict(self.links, "links")

    @classmethod
    def of(cls, value: Any) -> Self:
        """See ``_Json.of``; raises NetworkError too for what JSON cannot carry, with its place."""
        config = super().of(value)
        sites = [node.id for node in config.network.nodes]
        for site, link in config.links.items():
            if site not in sites:
                raise NetworkError(f"links tells where to dial {site}, which is no node of the network")
            if not _is_link(link):
                raise NetworkError(
                    f"links must say {{'host': ..., 'ports': [low, high]}} for {site}, and says {link!r}"
                )
        try:
            _require_json(config.__dict__, "the configuration")
        except RecursionError:
            raise NetworkError("the configuration contains itself; a job's JSON has an end") from None
        return config


@dataclass
class LocalConfig(_Json):
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
    schedule: list[Neighborhood] = field(default_factory=list, metadata=_OURS)
    index: int = field(default=0, metadata=_OURS)
    sites: int = field(default=1, metadata=_OURS)
    parent: str | None = field(default=None, metadata=_OURS)
    children: list[str] = field(default_factory=list, metadata=_OURS)
    labels: dict[str, Any] = field(default_factory=dict, metadata=_OURS)
    link: dict[str, Any] | None = field(default=None, metadata=_OURS)
    row_stochastic: bool = field(default=True, metadata=_OURS)
    column_stochastic: bool = field(default=True, metadata=_OURS)

    def __post_init__(self) -> None:
        self.neighbors = _each(Neighbor, self.neighbors, "the neighbors of a site")
        self.extra = _dict(self.extra, "extra")
        self.schedule = [
            Neighborhood(**{**n, "out": tuple(n["out"])}) if isinstance(n, dict) else n for n in self.schedule
        ]
