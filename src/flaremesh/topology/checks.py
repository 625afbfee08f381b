"""What must hold between the fields of a topology file.

The checks read the plain data of the file, so that a mistake in one field hides none in another.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

import networkx as nx
from pydantic import TypeAdapter, ValidationError

from flaremesh.class_path import package_of, prefix_of
from flaremesh.hosts import canonical
from flaremesh.topology.aggregation import conflict
from flaremesh.topology.graphs import Digraph, GraphError, directed, foreign_rule, phases
from flaremesh.topology.mistakes import Location, Mistake, instead, shown
from flaremesh.topology.schema import (
    DEFAULT_PORT,
    SERVER,
    Count,
    Graph,
    LinkAddress,
    Meet,
    Port,
    Weight,
    WeightedGraph,
    WeightRule,
    WireEncoding,
    default_weights,
)
from flaremesh.topology.weights import UNDIRECTED_ONLY


def mistakes(data: Mapping[str, Any]) -> Iterator[Mistake]:
    """All mistakes between the fields of a topology file's data."""
    sites = [site.get("name") for site in _mappings(data.get("sites"))]
    yield from _unique(sites, "sites", "name")
    yield from _nameless(data)
    emails = [admin.get("email") for admin in _mappings(data.get("admins"))]
    yield from _unique(emails, "admins", "email")
    for index, name in enumerate(sites):
        if name == SERVER:
            yield Mistake(
                ("sites", index, "name"), f"{SERVER} is the server's own name", "choose another name"
            )
    yield from _port_mistakes(data)
    graph = data.get("graph")
    weights = data.get("weights", default_weights(graph))
    rule = weights if weights in get_args(WeightRule) else None
    names = [name for name in sites if isinstance(name, str)]
    in_edges = list(_edge_mistakes(graph, names, rule)) if isinstance(graph, Mapping) else []
    yield from in_edges
    if not in_edges and len(set(names)) == len(sites) >= 2:
        yield from _graph_mistakes(graph, names, rule)
    yield from _code_mistakes(data)
    yield from _quorum_mistakes(data.get("run"), len(sites))
    yield from _asynchrony_mistakes(data.get("run"))
    yield from _aggregation_mistakes(data.get("run"))


def _mappings(entries: Any) -> list[Mapping[str, Any]]:
    """The entries of a list, anything but a mapping replaced by an empty one."""
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        return []
    return [entry if isinstance(entry, Mapping) else {} for entry in entries]


_TRUTH = TypeAdapter(bool)
_WEIGHT = TypeAdapter(Weight)
_PHASE = TypeAdapter(Count)
_GRAPH = TypeAdapter[Any](Graph)
_LINK = TypeAdapter(LinkAddress)
_PORT = TypeAdapter(Port)
_MEET = TypeAdapter(Meet)

_T = TypeVar("_T")


def _valid(model: TypeAdapter[_T], value: Any) -> _T | None:
    """The value as the schema reads it; None where it refuses it, which validation reports."""
    try:
        return model.validate_python(value)
    except ValidationError:
        return None


_OPEN = {("run", "problem", "args"), ("run", "problem", "model_args"), ("deploy", "values")}
"""Fields whose values may have any keys: the problem and the charts read them."""


def _nameless(data: Any, at: Location = ()) -> Iterator[Mistake]:
    """Fields whose names are no text."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            if not isinstance(key, str):
                yield Mistake((*at, key), f"YAML takes the field's name for {shown(key)}", "put it in quotes")
            if at not in _OPEN:
                yield from _nameless(value, (*at, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _nameless(value, (*at, index))


def _unique(values: Sequence[Any], section: str, field: str) -> Iterator[Mistake]:
    first: dict[str, int] = {}
    for index, value in enumerate(values):
        # kits are folders, and some file systems ignore case
        if isinstance(value, str) and (known := first.setdefault(value.casefold(), index)) != index:
            yield Mistake(
                (section, index, field),
                f"{value} is already {section}[{known}]",
                f"give every entry of {section} its own {field}",
            )


def _port_mistakes(data: Mapping[str, Any]) -> Iterator[Mistake]:
    """Participants that share a host need a port each; a range offers any of its ports."""
    taken: defaultdict[str, set[int]] = defaultdict(set)
    server = data.get("server")
    if isinstance(server, Mapping) and isinstance(host := server.get("host"), str):
        taken[canonical(host)].add(_valid(_PORT, server.get("port")) or DEFAULT_PORT)
        if (meet := _valid(_MEET, server.get("meet"))) is not None:
            others = taken[canonical(meet.host or host)]
            if meet.port in others:
                yield Mistake(
                    ("server", "meet", "port"),
                    f"{meet.port} is the server's own port",
                    "give the meeting point another one, e.g. 8003",
                )
            others.add(meet.port)
    links = [
        (link, index)
        for index, site in enumerate(_mappings(data.get("sites")))
        if (link := _valid(_LINK, site.get("link"))) is not None
    ]
    # in the order of their last ports: then every range gets a port whenever that is possible
    for link, index in sorted(links, key=lambda entry: (entry[0].port_range[1], entry[1])):
        low, high = link.port_range
        others = taken[canonical(link.host)]
        free = next((port for port in range(low, high + 1) if port not in others), None)
        if free is None:
            yield Mistake(
                ("sites", index, "link", "ports"),
                f"others at {link.host} take all of {link.ports}",
                "give every participant of a host ports of its own",
            )
        else:
            others.add(free)


def _edge_mistakes(
    graph: Mapping[str, Any], sites: Sequence[str], rule: WeightRule | None
) -> Iterator[Mistake]:
    edges = _mappings(graph.get("edges"))
    if not edges:
        if rule == "explicit" and "kind" in graph and not isinstance(_valid(_GRAPH, graph), WeightedGraph):
            yield Mistake(
                ("weights",), "explicit weights need edges that carry them", "write weights: metropolis"
            )
        return
    known, seen = set(sites), set[tuple[int, str, str]]()
    one_way = _valid(_TRUTH, graph.get("directed", False)) is not False
    sums: defaultdict[tuple[int, str], float] = defaultdict(float)
    for index, edge in enumerate(edges):
        at = ("graph", "edges", index)
        ends = {end: site for end in ("from", "to") if isinstance(site := edge.get(end), str)}
        for end, site in ends.items():
            if site not in known:
                yield Mistake((*at, end), f"there is no site {site}", instead(site, sites))
        if len(ends) < 2:
            continue  # validation says so
        source, target = ends.values()
        phase = _valid(_PHASE, edge.get("phase", 1)) or 1
        both_ways = [(source, target)] if one_way else [(source, target), (target, source)]
        if source == target:
            yield Mistake(
                at,
                f"{source} is its own neighbour",
                "remove the edge: a site's own weight is what its neighbours' weights leave of 1",
            )
        if (phase, source, target) in seen:
            yield Mistake(at, f"the edge between {source} and {target} stands twice", "remove one of them")
        seen.update((phase, *ends) for ends in both_ways)
        if rule == "explicit" and edge.get("weight") is None:
            yield Mistake(
                at, "the edge has no weight, but weights are explicit", "add a weight between 0 and 1"
            )
        if (weight := _valid(_WEIGHT, edge.get("weight"))) is not None:
            for _, user in both_ways:
                sums[phase, user] += weight
                if (total := sums[phase, user]) - weight <= 1 + 1e-9 < total:
                    yield Mistake(
                        (*at, "weight"),
                        f"the weights of {user}'s neighbours sum to more than 1 ({total:g})",
                        "lower them: what they leave of 1 is the site's own weight",
                    )
    if rule not in (None, "explicit") and sums:
        yield Mistake(
            ("weights",),
            f"edges carry weights, but the rule is {rule}",
            "write weights: explicit, or remove the edges' weights",
        )


_MOST_OPTIMAL = 150


def _graph_mistakes(data: Any, sites: Sequence[str], rule: WeightRule | None) -> Iterator[Mistake]:
    graph = _valid(_GRAPH, data)
    if graph is None:
        return
    if mistake := foreign_rule(graph, rule or "explicit"):
        yield Mistake(("weights",), *mistake)
    try:
        parts = phases(graph, sites)
    except GraphError as error:
        yield Mistake(("graph", error.field), error.problem, error.remedy)
        return
    whole = nx.compose_all(parts)
    if not nx.is_strongly_connected(whole):
        yield Mistake(("graph",), *_disconnection(whole))
    if rule == "optimal" and len(sites) > _MOST_OPTIMAL:
        yield Mistake(
            ("weights",),
            f"the programme that finds optimal weights takes hours for {len(sites)} sites",
            f"write weights: metropolis; {_MOST_OPTIMAL} sites are the most",
        )
    if not mistake and rule in UNDIRECTED_ONLY and any(directed(part) for part in parts):
        yield Mistake(
            ("weights",),
            f"{rule} weights need an undirected graph and this one is directed",
            "write weights: push-sum and run an algorithm for them (`flaremesh algorithms`), e.g. sgp, or "
            "weights: uniform if every site has as many in- as out-neighbours",
        )


def _disconnection(graph: Digraph) -> tuple[str, str]:
    condensed = nx.condensation(graph)
    last = next(part for part in condensed if condensed.out_degree(part) == 0)
    inside = min(condensed.nodes[last]["members"])
    outside = min(set(graph) - condensed.nodes[last]["members"])
    return (
        f"the graph is not connected: {len(condensed)} parts, and no way from {inside} to {outside}",
        f"add an edge such as {{from: {inside}, to: {outside}}}, or change a random graph's seed",
    )


def _quorum_mistakes(run: Any, sites: int) -> Iterator[Mistake]:
    if not isinstance(run, Mapping) or run.get("quorum") is None:
        return
    if run.get("on_loss") != "continue":
        yield Mistake(
            ("run", "quorum"),
            "the run never goes on without sites",
            "write on_loss: continue, or remove the quorum",
        )
    elif isinstance(quorum := run["quorum"], int) and quorum > sites:
        yield Mistake(("run", "quorum"), f"there are {sites} sites", f"write at most {sites}")


def _asynchrony_mistakes(run: Any) -> Iterator[Mistake]:
    if not isinstance(run, Mapping) or run.get("asynchronous") is not True:
        return
    if run.get("on_loss", "wait") != "fail":
        yield Mistake(
            ("run", "on_loss"),
            "sites that wait for nobody have no iteration in common from which a run could go on",
            "write on_loss: fail, or remove asynchronous",
        )
    if run.get("until") is not None:
        yield Mistake(
            ("run", "until"),
            "sites that wait for nobody do not agree when the run ends",
            "remove until, or asynchronous",
        )


def _aggregation_mistakes(run: Any) -> Iterator[Mistake]:
    if not isinstance(run, Mapping) or not isinstance(privacy := run.get("privacy"), Mapping):
        return
    if _valid(_TRUTH, privacy.get("secure_aggregation", False)) is not True:
        return
    wire, mixing = run.get("wire", "exact"), run.get("mixing")
    encoding = wire.get("encoding", "exact") if isinstance(wire, Mapping) else wire
    clipped = isinstance(mixing, Mapping) and mixing.get("clip") is not None
    if encoding in get_args(WireEncoding) and (
        found := conflict(encoding, clipped, run.get("asynchronous") is True)
    ):
        field, problem, remedy = found
        yield Mistake(("run", *field), problem, remedy)


def _code_mistakes(data: Mapping[str, Any]) -> Iterator[Mistake]:
    run, code = data.get("run"), data.get("code", {})
    if not isinstance(run, Mapping) or not isinstance(code, Mapping):
        return
    problem, packages = run.get("problem"), code.get("packages", ())
    allowed = ("flaremesh", *packages) if isinstance(packages, list | tuple) else ()
    named: dict[Location, Any] = {("run", "algorithm"): run.get("algorithm")}
    if isinstance(problem, Mapping):
        named["run", "problem", "path"] = problem.get("path")
    for location, path in named.items():
        if not isinstance(path, str) or "." not in path:
            continue  # a registered name, or validation reports it
        if not any(path.startswith(prefix_of(package)) for package in allowed):
            package = package_of(path)
            yield Mistake(
                location, f"the kits allow no code of {package}", f"write code: {{packages: [{package}]}}"
            )
    brought = {"file", "script"}.intersection(problem) if isinstance(problem, Mapping) else ()
    if brought and not _valid(_TRUTH, code.get("files")):
        yield Mistake(
            ("run", "problem", min(brought)),
            "the kits allow no code that a job brings along",
            "write code: {files: true}",
        )
