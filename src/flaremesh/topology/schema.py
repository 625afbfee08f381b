"""The topology file as closed models: the one source of truth of a mesh.

A model checks its own fields; what holds between fields is checked where a file is loaded (checks.py).
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    StringConstraints,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from flaremesh import __version__
from flaremesh.hosts import canonical
from flaremesh.metrics.names import SHAREABLE
from flaremesh.topology.links import LinkMode
from flaremesh.topology.mistakes import instead, shown

if TYPE_CHECKING:
    from flaremesh.topology.neighborhood import Neighborhood

SERVER = "server"
"""The server's name in the mesh, in its kit and in its certificate; no site may have it."""


DEFAULT_PORT = 8002
DEFAULT_MEETING_PORT = 8003
"""The server's port where the file names none."""

MOST_SITES = 10_000


def refusal(problem: str, remedy: str) -> PydanticCustomError:
    """A validation error that says what to write instead; to be raised by validators."""
    return PydanticCustomError("refused", "{problem}", {"problem": problem, "remedy": remedy})


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):
        raise refusal(f"{shown(value)} is a truth value", "write a number")
    return value


NUMBER = BeforeValidator(_no_truth_value)
"""Refuses truth values, which pydantic would take for 0 and 1."""

Count: TypeAlias = Annotated[int, Field(gt=0, le=10**9), NUMBER]
Fraction: TypeAlias = Annotated[float, Field(gt=0, le=1), NUMBER]
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=10**6), NUMBER]  # libraries refuse longer timeouts
Seed: TypeAlias = Annotated[int, Field(ge=0, lt=2**32), NUMBER]  # all libraries' generators take these

DnsLabel: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")]
Port: TypeAlias = Annotated[int, Field(ge=1, le=65535), NUMBER]

_LONGEST_NAME = 64
"""Characters of a holder's and an organisation's name in an X.509 certificate."""

Org: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$", max_length=_LONGEST_NAME)]
Email: TypeAlias = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}$",
        max_length=_LONGEST_NAME,
    ),
]

_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = rf"^{_LABEL}(\.{_LABEL})*$"
_HOST_OR_IPV6 = rf"^({_LABEL}(\.{_LABEL})*|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)$"


def _host(text: str) -> str:
    if re.fullmatch(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*", text):
        return _ipv6(text)
    if any(mark in text for mark in ":/[]%"):
        raise refusal(
            f"{shown(text)} is more than a name or an address",
            "write the host alone, without scheme, port, brackets and zone",
        )
    if not re.match(_HOST, text) or len(text) > 253:
        raise refusal(
            f"{shown(text)} is neither a host name nor an address",
            "write letters, digits and inner hyphens, 63 at most between two dots",
        )
    if text.rpartition(".")[2].isdecimal():
        try:
            ipaddress.IPv4Address(text)
        except ValueError as error:
            raise refusal(
                f"{shown(text)} is no IPv4 address: {error}", "correct it, or write a name"
            ) from None
    return text


def _ipv6(text: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError as error:
        raise refusal(f"{shown(text)} is no IPv6 address: {error}", "correct it, or write a name") from None
    if address.ipv4_mapped:
        raise refusal(
            f"{shown(text)} is an IPv4 address in the clothes of the other family",
            f"write {address.ipv4_mapped}",
        )
    if address.is_link_local:
        raise refusal(
            f"{shown(text)} holds on one network segment alone, and says not on which",
            "write a global or a unique local address, or a name",
        )
    return address.compressed


Host: TypeAlias = Annotated[
    str, AfterValidator(_host), WithJsonSchema({"type": "string", "pattern": _HOST_OR_IPV6, "maxLength": 253})
]

_DOMAIN = "[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
_PATH = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"

ImageName: TypeAlias = Annotated[
    str,
    StringConstraints(
        # a registry has a dot or a port, or is localhost
        pattern=rf"^(({_DOMAIN}(\.{_DOMAIN})+(:[0-9]+)?|{_DOMAIN}:[0-9]+|localhost)/)?{_PATH}(/{_PATH})*"
        r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$",
        max_length=255 + 1 + 128 + 72,
    ),
]
KubernetesName: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=253)
]


def _ports(text: str) -> str:
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
    if match is None:
        raise refusal(
            f"{shown(text)} is neither a port nor a range", "write a port or a range such as 8102-8105"
        )
    low, high = int(match[1]), int(match[2] or match[1])
    if not 1 <= low <= high <= 65535:
        raise refusal(
            f"the range {text} is empty or leaves 1-65535", "write the lower port first, e.g. 8102-8105"
        )
    return text


Ports: TypeAlias = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if type(value) is int else value),  # YAML reads 8102 as a number
    AfterValidator(_ports),
    WithJsonSchema(
        {"type": ["string", "integer"], "pattern": r"^\d+(-\d+)?$", "minimum": 1, "maximum": 65535}
    ),
]


def _scalar(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise refusal(f"{value} is not finite", "write another number")
    if isinstance(value, bool | int | float | str):
        return value
    raise refusal(f"{shown(value)} is neither number, text nor truth value", "write one value")


Option: TypeAlias = Annotated[
    bool | int | float | str,
    PlainValidator(_scalar),
    WithJsonSchema({"type": ["number", "string", "boolean"]}),
]


class Closed(BaseModel):
    """Unknown fields are errors: a misspelt key never passes silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True, allow_inf_nan=False)


def _shareable(name: str) -> str:
    if name not in SHAREABLE:
        raise refusal(f"there is no metric {name} that a site could share", instead(name, list(SHAREABLE)))
    return name


MetricName: TypeAlias = Annotated[
    str, AfterValidator(_shareable), WithJsonSchema({"type": "string", "enum": list(SHAREABLE)})
]


def _listed(names: Any) -> Any:
    return tuple(SHAREABLE) if names == "all" else names


class Metrics(Closed):
    """What the server shows of a site's metrics: for a Prometheus that cannot reach the site itself."""

    share: Annotated[
        tuple[MetricName, ...],
        BeforeValidator(_listed, json_schema_input_type=tuple[MetricName, ...] | Literal["all"]),
    ] = Field((), description="names without the prefix flaremesh_, or all; default: nothing leaves a site")


class Meet(Closed):
    """The meeting point, which joins the connections of sites that cannot dial each other, blind to them."""

    host: Host | None = Field(
        None,
        description="name or address that sites dial; the server's by default, and where it is none of the "
        "server's, the meeting point is one that `flaremesh meet` started there",
    )
    port: Port = Field(DEFAULT_MEETING_PORT, description="its port")


class Server(Closed):
    """The NVFlare server: job control and relay, never an aggregator."""

    host: Host = Field(description="name or address that sites and admins dial")
    port: Port = Field(DEFAULT_PORT, description="the server's one port")
    org: Org = Field(description="organisation that runs the server: letters, digits and underscores")
    names: tuple[Host, ...] = Field((), description="further names and addresses in the server's certificate")
    meet: Meet | None = Field(
        None,
        description="a meeting point beside the server, where two sites that cannot dial each other meet",
    )


class Admin(Closed):
    """A person who may submit runs."""

    email: Email = Field(description="e-mail address, which is the admin's identity")
    org: Org = Field(description="organisation of the admin: letters, digits and underscores")
    role: Literal["project_admin", "org_admin", "lead", "member"] = Field("lead", description="NVFlare role")


class LinkAddress(Closed):
    """Where neighbours reach a site for direct links."""

    host: Host = Field(description="name or address that neighbours dial")
    ports: Ports = Field(description="a port or a range such as 8102-8105; each run at the site takes one")

    @property
    def port_range(self) -> tuple[int, int]:
        """The lowest and the highest port."""
        low, _, high = self.ports.partition("-")
        return int(low), int(high or low)


class Site(Closed):
    """One participant: one NVFlare client, one pod."""

    name: DnsLabel = Field(
        description="name of the site: lower-case letters, digits and hyphens, first a letter"
    )
    org: Org = Field(description="organisation that runs the site: letters, digits and underscores")
    link: LinkAddress | None = Field(
        None, description="where neighbours dial; a site without it dials them, and two without are relayed"
    )
    gpus: Annotated[int, Field(ge=0, le=1024), NUMBER] = Field(
        0, description="GPUs that a run may use at the site"
    )
    metrics: Metrics | None = Field(None, description="what the server shows of it; default: as the mesh's")


class MaybeDirected(Closed):
    """A graph that exists directed and undirected."""

    directed: bool = Field(False, description="edges count one way only")


class FixedGraph(Closed):
    """A graph that the number of sites determines."""

    kind: Literal["path", "star", "complete", "hypercube", "one-peer-exponential"] = Field(
        description="star: the first site is the centre; "
        "one-peer-exponential: directed, in iteration k a site uses the value of the one 2^k places before it"
    )


class CirculantGraph(MaybeDirected):
    """Sites on a circle in the file's order."""

    kind: Literal["ring", "exponential"] = Field(
        description="ring: the next site; exponential: the sites 1, 2, 4, 8, … places ahead"
    )


class GridGraph(Closed):
    """Rows and columns, filled row by row; a torus closes them to rings."""

    kind: Literal["grid", "torus"] = Field(description="grid: with borders; torus: without")
    rows: Count | None = Field(None, description="number of rows; default: the squarest grid")


class ErdosRenyi(MaybeDirected):
    """Every edge exists with probability p."""

    kind: Literal["erdos-renyi"] = Field(description="random edges")
    p: Fraction = Field(description="probability of an edge")
    seed: Seed = Field(0, description="fixes the graph")


class RandomRegular(Closed):
    """A random graph in which every site has the same number of neighbours."""

    kind: Literal["random-regular"] = Field(description="random, all degrees equal")
    degree: Count = Field(description="neighbours of a site")
    seed: Seed = Field(0, description="fixes the graph")


class WattsStrogatz(Closed):
    """A ring of k neighbours whose edges are rewired with probability p: a small world."""

    kind: Literal["watts-strogatz"] = Field(description="a small world")
    k: Annotated[int, Field(ge=2, le=10**9), NUMBER] = Field(
        description="neighbours of a site before rewiring, an even number"
    )
    p: Annotated[float, Field(ge=0, le=1), NUMBER] = Field(description="probability of rewiring an edge")
    seed: Seed = Field(0, description="fixes the graph")


class WeightedGraph(Closed):
    """A kind of graph with weights of its own, which make it what it is; the rule is then ``explicit``."""

    kind: str


class BaseGraph(WeightedGraph):
    """The Base-(k+1) graph, which changes: exact after one cycle of phases, whatever the number of sites."""

    kind: Literal["base-graph"] = Field(description="few neighbours at a time, and exact after one cycle")
    degree: Count = Field(1, description="neighbours of a site in an iteration, at most")


class _RandomHops(WeightedGraph):
    hops: Count | None = Field(
        None, description="how many hops on the circle of sites are drawn; default: 2 ln(sites)"
    )
    seed: Seed = Field(0, description="fixes the graph")


class EquiTopo(_RandomHops, MaybeDirected):
    """Sites on a circle use the values of those that are some random hops away."""

    kind: Literal["equitopo"] = Field(
        description="EquiStatic: the sites some random hops ahead, and behind unless directed"
    )


class OnePeerEquiTopo(_RandomHops):
    """The random hops one at a time; directed."""

    kind: Literal["one-peer-equitopo"] = Field(
        description="directed; the hops of equitopo in turn, one in an iteration"
    )


class RandomPeers(WeightedGraph):
    """In each iteration other neighbours, drawn by chance; directed."""

    kind: Literal["random-peers"] = Field(
        description="epidemic learning: in each iteration a site uses the values of others drawn anew"
    )
    peers: Count = Field(
        1, description="sites whose values a site uses in an iteration, which as many use of it"
    )
    phases: Count = Field(100, description="iterations to draw for; a longer run begins anew with the first")
    seed: Seed = Field(0, description="fixes all that is drawn")


Weight: TypeAlias = Annotated[float, Field(gt=0, lt=1), NUMBER]


class Edge(Closed):
    """The value of `from` is used by `to`; in an undirected graph also the other way round."""

    source: str = Field(alias="from", description="site whose value is used")
    target: str = Field(alias="to", description="site that uses it")
    weight: Weight | None = Field(
        None, description="entry (to, from) of the mixing matrix; only with explicit weights"
    )
    phase: Count = Field(1, description="of a graph that changes: the phase that has the edge, from 1 on")


class ExplicitGraph(MaybeDirected):
    """The edges, one by one."""

    edges: Annotated[tuple[Edge, ...], Field(min_length=1)] = Field(
        description="list of {from: site, to: site}, with a weight where weights are explicit"
    )

    @model_validator(mode="after")
    def _no_phase_without_edges(self) -> Self:
        known = {edge.phase for edge in self.edges}
        if max(known) > len(known):
            gap = next(phase for phase in count(1) if phase not in known)
            raise refusal(
                f"phase {max(known)} has edges, and phase {gap} has none", "number the phases from 1 on"
            )
        return self


class EdgeListFile(MaybeDirected):
    """The edges in a text file, one `from to [weight]` a line, a line `phase` before those of each phase.

    Loading replaces it by an ExplicitGraph.
    """

    file: Path = Field(description="edge list, relative to the topology file")


_KINDS: dict[str, type[Closed]] = {
    kind: model
    for model in (
        FixedGraph,
        CirculantGraph,
        GridGraph,
        ErdosRenyi,
        RandomRegular,
        WattsStrogatz,
        BaseGraph,
        EquiTopo,
        OnePeerEquiTopo,
        RandomPeers,
    )
    for kind in get_args(model.model_fields["kind"].annotation)
}
GRAPH_KINDS = tuple(_KINDS)


def _graph_model(graph: Any) -> str | None:
    if isinstance(graph, BaseModel):
        return type(graph).__name__
    if not isinstance(graph, dict):
        return None
    if "edges" in graph:
        return ExplicitGraph.__name__
    if "file" in graph:
        return EdgeListFile.__name__
    kind = graph.get("kind")
    return _KINDS[kind].__name__ if isinstance(kind, str) and kind in _KINDS else None


Graph: TypeAlias = Annotated[
    Annotated[FixedGraph, Tag("FixedGraph")]
    | Annotated[CirculantGraph, Tag("CirculantGraph")]
    | Annotated[GridGraph, Tag("GridGraph")]
    | Annotated[ErdosRenyi, Tag("ErdosRenyi")]
    | Annotated[RandomRegular, Tag("RandomRegular")]
    | Annotated[WattsStrogatz, Tag("WattsStrogatz")]
    | Annotated[BaseGraph, Tag("BaseGraph")]
    | Annotated[EquiTopo, Tag("EquiTopo")]
    | Annotated[OnePeerEquiTopo, Tag("OnePeerEquiTopo")]
    | Annotated[RandomPeers, Tag("RandomPeers")]
    | Annotated[ExplicitGraph, Tag("ExplicitGraph")]
    | Annotated[EdgeListFile, Tag("EdgeListFile")],
    Discriminator(_graph_model),
]

WeightRule: TypeAlias = Literal[
    "metropolis", "uniform", "max-degree", "lazy", "optimal", "push-sum", "explicit"
]


def default_weights(graph: Any) -> WeightRule:
    """The rule for a graph, or for its data in a file, where the file names none."""
    weighted = {model.__name__ for model in _KINDS.values() if issubclass(model, WeightedGraph)}
    return "explicit" if _graph_model(graph) in weighted else "metropolis"


ClassPath: TypeAlias = Annotated[str, StringConstraints(pattern=r"^\w+(\.\w+)+$")]


class ProblemReference(Closed):
    """The problem of a run: a class in an installed package, or in a file beside the topology file."""

    path: ClassPath | None = Field(
        None, description="dotted path of an installed class, e.g. flaremesh.problems.digits.Digits"
    )
    file: Path | None = Field(
        None, description="Python file, relative to the topology file, that holds the class"
    )
    name: Annotated[str, StringConstraints(pattern=r"^\w+$")] | None = Field(
        None, description="class name in `file`"
    )
    args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the class")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = {field for field in ("path", "file", "name") if getattr(self, field) is not None}
        if given not in ({"path"}, {"file", "name"}):
            raise refusal(
                f"{' and '.join(sorted(given)) or 'nothing'} given: a class has a path, or a file and a name",
                "write {path: package.module.Class} or {file: problem.py, name: Class}",
            )
        return self


class ScriptReference(Closed):
    """The problem of a run: a script that is written for NVFlare's Client API, and trains a model."""

    script: Path = Field(description="Python file, relative to the topology file")
    model: ClassPath = Field(
        description="class of the model with which all sites begin, in a file beside the script or in an "
        "installed package, e.g. net.Net of net.py"
    )
    args: tuple[Option, ...] = Field((), description="words on the script's command line, as a list")
    model_args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the model")
    # closed, since kits may list the code that somebody has read: other words could start any program
    launch: (
        Annotated[str, StringConstraints(pattern=r"^torchrun --nproc[-_]per[-_]node[ =]\d{1,3}$")] | None
    ) = Field(None, description="torchrun --nproc-per-node N: starts the script N times, as ranks")
    evaluates: bool = Field(
        False, description="whether the script answers flare.is_evaluate() tasks with metrics"
    )
    timeout: Seconds = Field(600.0, description="seconds that the script may take for an answer")

    @property
    def file(self) -> Path:
        """The file that travels with the job."""
        return self.script


def _problem_model(problem: Any) -> str:
    model = ScriptReference if isinstance(problem, dict) and "script" in problem else ProblemReference
    return type(problem).__name__ if isinstance(problem, BaseModel) else model.__name__


AnyProblem: TypeAlias = Annotated[
    Annotated[ProblemReference, Tag("ProblemReference")] | Annotated[ScriptReference, Tag("ScriptReference")],
    Discriminator(_problem_model),
]


WireEncoding: TypeAlias = Literal["exact", "float32", "bfloat16", "float16", "int8", "top-k"]


def _spelt_out(wire: Any) -> Any:
    return {"encoding": wire} if isinstance(wire, str) else wire


class Wire(Closed):
    """How vectors travel between sites: `wire: int8` is short for `wire: {encoding: int8}`."""

    encoding: WireEncoding = Field(
        "exact",
        description="exact, float32, bfloat16, float16, int8 or top-k; never wider than the vectors are",
    )
    fraction: Fraction | None = Field(
        None, description="of top-k: the fraction of entries that is sent; default 0.1"
    )
    gossip: Fraction | None = Field(
        None, description="step size γ of the mixing; default 1 for int8, for top-k the fraction"
    )

    @model_validator(mode="after")
    def _options_of_the_encoding(self) -> Self:
        if self.fraction is not None and self.encoding != "top-k":
            raise refusal(
                f"{self.encoding} sends all entries", "remove the fraction, or write encoding: top-k"
            )
        if self.gossip is not None and not self.keeps_copies:
            raise refusal(
                f"{self.encoding} mixes with the weights as they are",
                "remove gossip, or write encoding: int8 or top-k",
            )
        return self

    @classmethod
    def of(cls, value: Any) -> Self:
        """The wire that a word, a mapping or a Wire stands for."""
        return cls.model_validate(_spelt_out(value))

    @property
    def keeps_copies(self) -> bool:
        """Whether sites keep copies of what their neighbours know, and send what changed."""
        return self.encoding in ("int8", "top-k")

    def unsoundness(self, phases: int) -> str | None:
        """Why it does not fit a graph with these phases, and what to write instead; None if it does."""
        if phases > 1 and self.keeps_copies:
            return (
                f"wire: {self.encoding} keeps copies of what the neighbours have, and in this graph they "
                "change from one iteration to the next; write wire: bfloat16, or choose a graph that stays"
            )
        return None

    @property
    def kept(self) -> float:
        """The fraction of entries that top-k sends."""
        return 0.1 if self.fraction is None else self.fraction

    @property
    def step(self) -> float:
        """γ; its default for top-k, the fraction, is stable and within a factor of two of the best."""
        if self.gossip is not None:
            return self.gossip
        return self.kept if self.encoding == "top-k" else 1.0


def _clip(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value == "auto" or (number and 0 < value < math.inf):
        return value
    raise refusal(f"{shown(value)} is no distance", "write auto, or a number above 0")


Clip: TypeAlias = Annotated[
    float | Literal["auto"],
    PlainValidator(_clip),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"const": "auto"}]}),
]
"""How far from a site's own vector a neighbour's counts; "auto" for the second greatest of the distances."""


class Mixing(Closed):
    """What a site makes of its neighbours' vectors, beside their weights."""

    clip: Clip | None = Field(
        None,
        description="count a neighbour's vector as no further from the site's own than this: a 2-norm, or "
        "auto, the second greatest distance of its neighbours; default: count it as it is",
    )

    def unsoundness(self, hoods: Iterable[Neighborhood], *, asynchronous: bool) -> str | None:
        """Why it does not fit these neighbourhoods, and what to write instead; None if it does.

        Args:
            hoods: of all sites and phases, or of one site.
            asynchronous: whether sites mix what has come.
        """
        if self.clip != "auto":
            return None
        if asynchronous:
            return (
                "clip: auto compares a site's neighbours, of which often one alone has come with "
                "asynchronous: true; write a number"
            )
        lonely = next((hood.site for hood in hoods if len(hood.in_weights) == 1), None)
        return lonely and (
            f"clip: auto compares a site's neighbours, and {lonely} has a single one; write a number, or "
            "choose a graph in which it has more"
        )


OnLoss: TypeAlias = Literal["fail", "wait", "continue"]
"""What becomes of a run that loses a site, a job's process or an edge."""

_PERIOD = r"([1-9]\d{0,5}(?:\.\d{1,3})?)(s|min|h)"
_UNIT_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


class CheckpointInterval(Closed):
    """When sites keep what they need to go on: `every: 60s` by the clock, `every: 500` iterations."""

    every: Count | Annotated[str, StringConstraints(pattern=f"^{_PERIOD}$")] = Field(
        "60s", description="iterations, or a time in s, min or h"
    )

    @property
    def iterations(self) -> int | None:
        """The iterations between two checkpoints; None where the clock says when."""
        return self.every if isinstance(self.every, int) else None

    @property
    def seconds(self) -> float | None:
        """The seconds between two checkpoints; None where the number of iterations says when."""
        if isinstance(self.every, int):
            return None
        number, unit = re.fullmatch(_PERIOD, self.every).groups()  # type: ignore[union-attr]  # the pattern held
        return float(number) * _UNIT_SECONDS[unit]


Reach: TypeAlias = Annotated[
    float,
    NUMBER,
    WithJsonSchema({"type": "number", "description": "the value that a metric is to reach at all sites"}),
]


class Plateau(Closed):
    """A metric that does not become better at the worst site."""

    metric: str = Field(description="name of a metric that the problem evaluates, e.g. loss")
    iterations: Count = Field(description="for so many iterations")


class Until(Closed, extra="allow"):
    """What ends a run before its last iteration: values that all sites have reached, or a plateau."""

    __pydantic_extra__: dict[str, Reach]
    plateau: Plateau | None = Field(
        None, description="what no longer becomes better, e.g. {metric: loss, iterations: 200}"
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.metrics:
            raise refusal("it names no metric", "write a metric and its value, e.g. {accuracy: 0.95}")
        return self

    @property
    def targets(self) -> dict[str, float]:
        """The value that each metric is to reach at all sites."""
        return dict(self.__pydantic_extra__)

    @property
    def metrics(self) -> tuple[str, ...]:
        """All that it names, each once; the first is the one by which models are compared."""
        return tuple(dict.fromkeys([*self.targets, *([self.plateau.metric] if self.plateau else [])]))


class Privacy(Closed):
    """What keeps a site's data from its neighbours: masks, and a budget, kept by clipping and noise."""

    masked_start: bool = Field(
        True,
        description="neighbours mask what they send first of gradients, by vectors that cancel in the mean; "
        "where the algorithm can",
    )
    mask_scale: Annotated[float, Field(gt=0, le=1e9), NUMBER] = Field(
        1.0, description="greatest value of an entry of a mask; as great as entries of gradients, or greater"
    )
    epsilon: Annotated[float, Field(gt=0, le=10_000), NUMBER] | None = Field(
        None, description="ε that a run may spend of each site's data; with delta and clip"
    )
    delta: Annotated[float, Field(gt=0, lt=1), NUMBER] | None = Field(
        None, description="δ, less than one over the number of units, e.g. 1e-5"
    )
    clip: Annotated[float, Field(gt=0, allow_inf_nan=False), NUMBER] | None = Field(
        None, description="2-norm to which the gradient of a unit is scaled down"
    )
    noise: Literal["independent", "correlated"] = Field(
        "independent",
        description="correlated: neighbours add noise in pairs that cancel in the mean, so that less is left",
    )
    examples: Count | None = Field(
        None,
        description="the unit is one example, and every site's batch counts as of so many at least; "
        "default: the unit is all that a site has",
    )
    sigma: Annotated[float, Field(gt=0, le=1e9), NUMBER] | None = Field(
        None,
        description="standard deviation of the noise in units of clip; the run ends where the budget does; "
        "default: the least with which all iterations fit the budget",
    )
    correlation: Annotated[float, Field(gt=0, le=1e6), NUMBER] = Field(
        10.0, description="standard deviation of the noise of a pair in units of each site's own"
    )
    curious: Annotated[int, Field(ge=0, le=MOST_SITES), NUMBER] = Field(
        1, description="so many sites may put together what they know, and ε holds; of correlated noise"
    )
    secure_aggregation: bool = Field(
        False, description="a site learns the weighted sum of its neighbours' vectors, and no single one"
    )

    @model_validator(mode="after")
    def _whole_budget(self) -> Self:
        budget = (self.epsilon, self.delta, self.clip)
        if None in budget and budget != (None, None, None):
            raise refusal(
                "a budget is epsilon, delta and clip, and not all of them are there",
                "write all three, e.g. {epsilon: 8, delta: 1e-5, clip: 1.0}, or none",
            )
        return self

    def unsoundness(self, *, asynchronous: bool, phases: int, resumable: bool) -> str | None:
        """Why the budget would not hold in a run, and what to write instead; None if it would.

        Args:
            asynchronous: whether sites mix what has come.
            phases: how many mixing matrices take turns.
            resumable: whether the run goes on after a loss.
        """
        if self.epsilon is None:
            return None
        if resumable:
            return (
                "a run that goes on from a checkpoint asks for gradients again, which its privacy budget "
                "does not count; write on_loss: fail"
            )
        if self.noise == "correlated" and asynchronous:
            return (
                "correlated noise cancels between gradients of one iteration, and with asynchronous: true "
                "sites have none in common; write noise: independent"
            )
        if self.noise == "correlated" and phases > 1:
            return (
                f"correlated noise is shared by neighbours, and {phases} graphs take turns; write noise: "
                "independent, or choose a graph that stays"
            )
        return None


class Run(Closed):
    """Defaults of a run; `flaremesh run` may override them."""

    algorithm: Annotated[str, StringConstraints(pattern=r"^[\w-]+(\.\w+)*$")] = Field(
        description="name of a registered algorithm, e.g. gradient-tracking"
    )
    iterations: Count = Field(description="number of iterations")
    stepsize: Annotated[float, Field(gt=0), NUMBER] | None = Field(
        None, description="step size α of the algorithm"
    )
    local_steps: Count | None = Field(
        None, description="gradient steps between two exchanges, of an algorithm that has them, e.g. k-gt"
    )
    asynchronous: bool = Field(
        False,
        description="mix what has come, and wait for nobody: with gradient-tracking, k-gt, r-fast or "
        "local-dgd, and on_loss: fail",
    )
    options: dict[str, Option] = Field(
        default_factory=dict, description="further hyper-parameters of the algorithm, e.g. beta1"
    )
    problem: AnyProblem = Field(description="model, loss and data")
    seed: Seed = Field(0, description="seed of the problem, equal at all sites")
    links: LinkMode = Field("auto", description="auto: the best way that there is; or one of them alone")
    evaluate_every: Count | None = Field(
        None, description="iterations between evaluations; default: 20 times a run"
    )
    until: Until | None = Field(
        None, description="ends the run once all sites have come to it, e.g. {accuracy: 0.95}"
    )
    peer_timeout: Seconds = Field(
        60.0, description="seconds to wait for a neighbour; unless on_loss is fail, for its sign of life"
    )
    straggler_timeout: Seconds | None = Field(
        None,
        description="seconds to wait for a neighbour that is alive, unless on_loss is fail",
    )
    start_timeout: Seconds = Field(
        60.0, description="seconds for all sites to come up, load data and build their problems"
    )
    on_loss: OnLoss = Field(
        "wait",
        description="wait: a run that loses a site goes on from checkpoints once all are back; continue: "
        "after its patience it goes on without; fail: it ends",
    )
    patience: Seconds = Field(600.0, description="seconds to wait for a site that was lost")
    quorum: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="with on_loss: continue, so many sites must be there to go on; default: more than half",
    )
    checkpoint: CheckpointInterval = Field(
        CheckpointInterval(), description="when sites keep what they need to go on, e.g. {every: 500}"
    )
    stop_on_non_finite: bool = Field(True, description="fail the run at the first NaN or infinite value")
    mix_buffers: bool = Field(True, description="mix BatchNorm statistics too")
    wire: Annotated[Wire, BeforeValidator(_spelt_out, json_schema_input_type=Wire | WireEncoding)] = Field(
        Wire(), description="how vectors travel, e.g. bfloat16, or {encoding: top-k, fraction: 0.05}"
    )
    mixing: Mixing = Field(Mixing(), description="what becomes of the neighbours' vectors, e.g. {clip: auto}")
    privacy: Privacy = Field(
        Privacy(), description="what keeps data from neighbours, e.g. {epsilon: 8, delta: 1e-5, clip: 1.0}"
    )


def quorum_of(run: Run, sites: int) -> int | None:
    """How many of its sites a run needs to go on without the others; None where it needs all."""
    if run.on_loss != "continue":
        return None
    return run.quorum or majority(sites)


def majority(sites: int) -> int:
    """The least number that is more than half of the sites."""
    return sites // 2 + 1


def _serial(value: Any) -> str:
    """A certificate's serial number in decimal, from a number or from the text of one."""
    text = str(value).replace(":", "") if type(value) in (int, str) else ""
    if re.fullmatch(r"[0-9]{1,49}", text) and ":" not in str(value):
        number = int(text)
    elif re.fullmatch(r"(0[xX])?[0-9a-fA-F]{1,40}", text):
        number = int(text, 16)
    else:
        number = 0
    if not 0 < number < 1 << 160:  # RFC 5280, 4.1.2.2
        raise refusal(
            f"{shown(value)} is no serial number of a certificate",
            "write it as `flaremesh provision --json` says it, or as hexadecimal text, e.g. "
            "'5B:0F:A3' or 0x5b0fa3",
        )
    return str(number)


Serial: TypeAlias = Annotated[
    str,
    PlainValidator(_serial),
    WithJsonSchema(
        {"type": ["string", "integer"], "pattern": "^(0[xX])?[0-9a-fA-F:]+$", "maxLength": 60, "minimum": 1}
    ),
]


class Certificates(Closed):
    """How long certificates are valid, and which are not any more."""

    root_days: Annotated[int, Field(gt=0, le=36500), NUMBER] = Field(
        3650, description="days of validity of the root certificate"
    )
    days: Annotated[int, Field(gt=0, le=36500), NUMBER] = Field(
        360,
        description="days of validity of a participant's certificate; it ends with the root's at the latest",
    )
    revoked: tuple[Serial, ...] = Field(
        (), description="serial numbers of certificates that nobody may use any more, decimal or hexadecimal"
    )


class Code(Closed):
    """Code that the kits let jobs run beside flaremesh's own."""

    packages: tuple[Annotated[str, StringConstraints(pattern=r"^\w+(\.\w+)*$")], ...] = Field(
        (), description="installed packages whose problems and algorithms are allowed"
    )
    files: bool = Field(False, description="accept problems that a job brings along as a file")
    sha256: tuple[Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")], ...] = Field(
        (),
        description="digests of code that somebody has read; where there are any, a job's files of code and "
        "the modules of `packages` that it names must have one of them",
    )


class Deploy(Closed):
    """Settings of the container targets; the local target needs none."""

    image: ImageName = Field(
        f"flaremesh:{__version__}",
        description="container image of server and sites, e.g. registry.example.org/flaremesh:1.0; "
        "no capitals in its path",
    )
    gpu_image: ImageName = Field(
        f"flaremesh:{__version__}-cuda",
        alias="gpuImage",
        description="container image of sites with GPUs",
    )
    namespace: DnsLabel | None = Field(
        None, description="Kubernetes namespace of all; default: one each, <mesh>-<participant>"
    )
    storage: KubernetesName | None = Field(None, description="Kubernetes storage class of the workspaces")
    monitoring: DnsLabel | None = Field(
        None, description="Kubernetes namespace whose pods may scrape the metrics; default: nobody may"
    )
    values: dict[str, Any] = Field(
        default_factory=dict, description="further values of the charts for all participants, e.g. resources"
    )


class Topology(Closed):
    """One mesh: who takes part, who uses whose values with which weight, and what runs on it."""

    model_config = ConfigDict(title="flaremesh topology")

    api_version: Literal["flaremesh/v1"] = Field(alias="apiVersion", description="version of this format")
    name: DnsLabel = Field(
        description="name of the mesh: lower-case letters, digits and hyphens, first a letter"
    )
    server: Server = Field(description="the NVFlare server")
    admins: Annotated[tuple[Admin, ...], Field(min_length=1)] = Field(description="who may submit runs")
    sites: Annotated[tuple[Site, ...], Field(min_length=2, max_length=MOST_SITES)] = Field(
        description="the participants"
    )
    graph: Graph = Field(description="who uses whose values, e.g. {kind: ring} or {edges: [...]}")
    weights: WeightRule = Field(
        default_factory=lambda fields: default_weights(fields.get("graph")),
        description="rule that turns the graph into a mixing matrix; default: metropolis, or explicit where "
        "the kind of graph brings its weights along",
    )
    run: Run = Field(description="defaults of a run")
    certificates: Certificates = Field(Certificates(), description="lifetimes of certificates")
    code: Code = Field(Code(), description="code that jobs may run")
    metrics: Metrics = Field(Metrics(), description="what the server shows of all sites' metrics")
    deploy: Deploy | None = Field(
        None, description="settings of the container targets; {} takes the defaults"
    )

    @property
    def meeting_point(self) -> tuple[str, int] | None:
        """Host and port where sites that cannot dial each other meet; None where they do not."""
        meet = self.server.meet
        return (meet.host or self.server.host, meet.port) if meet else None

    @property
    def meeting_port(self) -> int | None:
        """Port of a meeting point that has a name of the server's, and is a process beside it; else None."""
        if self.meeting_point is None:
            return None
        host, port = self.meeting_point
        own = map(canonical, (self.server.host, *self.server.names))
        return port if canonical(host) in own else None

    def shared_by(self, site: Site) -> tuple[str, ...]:
        """Names of the metrics that the site is to let the server show."""
        return (site.metrics or self.metrics).share
