"""What a topology means before anything is made: its graph, its algorithms, its messages, its firewalls."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flaremesh import algorithms, import_path
from flaremesh.algorithms import Weights
from flaremesh.class_path import ClassPathError, package_of
from flaremesh.errors import FlaremeshError
from flaremesh.privacy.accounting import Budget, PrivacyError, budget_of, pairs_of
from flaremesh.provision import firewall, releases
from flaremesh.provision.charters import charters
from flaremesh.provision.firewall import FirewallRule
from flaremesh.provision.measured import Measurement
from flaremesh.provision.prediction import Lines, WireLoads, WireTime, times, wires_of
from flaremesh.runtime.until import conditions
from flaremesh.topology import aggregation
from flaremesh.topology.analysis import iterations_to, period, stationary
from flaremesh.topology.graphs import directed
from flaremesh.topology.links import Carried
from flaremesh.topology.mesh import Mesh, build
from flaremesh.topology.mistakes import instead
from flaremesh.topology.schema import SERVER, Privacy, Run, Topology
from flaremesh.topology.ways import carried, cut_off

if TYPE_CHECKING:
    from flaremesh.privacy.report import PrivacyReport


class UnsoundRun(FlaremeshError):
    """The run's algorithm cannot run on the topology; the message names the reason and the fix."""

    exit_code = 2


@dataclass(frozen=True)
class GraphSummary:
    """The graph of all phases.

    Attributes:
        sites: number of sites.
        edges: directed edges; an undirected edge is two.
        in_degrees: the smallest and the largest number of in-neighbours.
    """

    sites: int
    edges: int
    directed: bool
    phases: int
    in_degrees: tuple[int, int]


@dataclass(frozen=True)
class Mixing:
    """The mixing matrix, and what it does to the disagreement of the sites.

    Attributes:
        weights: rule by which the matrix is made, as in the topology file.
        symmetric, doubly_stochastic, row_stochastic, column_stochastic, primitive: as in analysis.Properties.
        predicted_contraction: factor per iteration of mixing alone, with the γ of the run's wire.
        cycle_contraction: factor of all phases of a graph that changes, once in turn; 0: exact after them.
        spectral_gap: 1 − contraction, for W itself.
        iterations_to_a_thousandth: until the disagreement is a thousandth of what it was; None for never.
        influence: each site's weight in the limit of mixing, where rows sum to one and columns do not; None
            where all sites have the same weight.
    """

    weights: str
    symmetric: bool
    doubly_stochastic: bool
    row_stochastic: bool
    column_stochastic: bool
    primitive: bool
    predicted_contraction: float
    cycle_contraction: float
    spectral_gap: float
    iterations_to_a_thousandth: int | None
    influence: dict[str, float] | None


@dataclass(frozen=True)
class Message:
    """What goes over one edge in one iteration.

    Attributes:
        vectors: number of vectors as long as the model that all exchanges send together; None if unknown.
        payload_bytes: without a frame's header of a few bytes; None if unknown.
        why_unknown: why the problem was not built, or could not be built here.
    """

    vectors: int | None
    payload_bytes: int | None = None
    why_unknown: str | None = None


@dataclass(frozen=True)
class NoisePlan:
    """What a privacy budget costs.

    Attributes:
        epsilon, delta: of the budget, of each site's data.
        unit: what ε is about: two sets of a site's data that differ in one of these.
        against: who may look, so that ε holds.
        noise: how it is made.
        sigma: standard deviation of an entry of each site's own noise, in units of the clipping norm.
        rdp: by which the Rényi divergence of order α grows with each gradient, divided by α.
        queries: gradients that the run asks for.
        iterations: that the run does.
        asked: iterations that it shall do, which the budget may not allow.
        spent: ε when it ends.
        gradient_error: standard deviation of an entry of the noise in the mean of all sites' gradients.
        model_error: that of an entry of the mean model at the end, at most, where the objectives are convex
            and the step is small enough; None where the algorithm does not move in proportion to gradients.
    """

    epsilon: float
    delta: float
    unit: str
    against: str
    noise: str
    sigma: float
    rdp: float
    queries: int
    iterations: int
    asked: int
    spent: float
    gradient_error: float
    model_error: float | None


@dataclass(frozen=True)
class Plan:
    """What ``flaremesh plan`` shows.

    Attributes:
        name: of the mesh.
        graph: its graph.
        mixing: its mixing matrix.
        algorithm: the run's.
        refusal: why the run would be refused, and the fix; None if it is sound.
        algorithms: every registered algorithm, with the reason why it is not sound on this graph, or None.
        carried: how many edges travel how, if nothing is wrong.
        advice: how they would travel faster; None where the file leaves no better way.
        message: what an iteration sends over an edge.
        firewall: the connections that firewalls must let through.
        redeploy: participants to deploy anew since the previous topology, and what of theirs changed; None
            without a previous one.
        times: with each wire, on the edges that were measured; None where the message is unknown, or these.
        until: what ends the run before its last iteration; None for nothing.
        unseen: the algorithm, if it was not imported since it lies beside the topology file, and what is
            therefore unknown; else None.
        privacy: what the run's privacy budget costs; None without one.
        seen: what neighbours see of each other.
        exposure: who could reconstruct what of whom; None where nobody asked, or the run is refused.
    """

    name: str
    graph: GraphSummary
    mixing: Mixing
    algorithm: str
    refusal: str | None
    algorithms: dict[str, str | None]
    carried: dict[str, int]
    advice: str | None
    message: Message
    firewall: tuple[FirewallRule, ...]
    redeploy: dict[str, str] | None
    times: list[WireTime] | None = None
    until: str | None = None
    unseen: str | None = None
    privacy: NoisePlan | None = None
    seen: str = ""
    exposure: "PrivacyReport | None" = None


def plan(
    topology: Topology,
    previous: Topology | None = None,
    *,
    build_problem: bool = False,
    measurement: Measurement | None = None,
    curious: int | None = None,
) -> Plan:
    """Derive the plan of a topology, and what changed since the one provisioned last.

    Args:
        topology: the mesh and its run.
        previous: the one provisioned last, if any.
        build_problem: build the first site's problem, to tell how long messages are. This imports torch and
            runs the problem's code.
        measurement: of the mesh, to tell how long a run takes, where the problem is built.
        curious: tell what so many sites find out if they put together what they know; None: do not.

    Raises:
        DeliveryError: the problem is to be built, and cannot travel to a site.
        GraphError, MissingExtra: the mesh cannot be built from the topology.
        PlacementError, ReleaseError: a release would contradict the topology, Kubernetes or Helm.
        PredictionError: an edge was not measured.
    """
    mesh = build(topology)
    if topology.deploy:
        releases.check(topology, mesh)
    refusal = _refusal(topology, mesh)
    edges = _carried(topology, mesh)
    message, loads = _message(topology, build_problem, refusal)
    return Plan(
        name=topology.name,
        graph=_graph(mesh),
        mixing=_mixing(topology, mesh),
        algorithm=topology.run.algorithm,
        refusal=refusal,
        algorithms={name: unsoundness(name, mesh) for name in algorithms.names()},
        carried=edges,
        advice=_advice(topology, edges),
        message=message,
        firewall=tuple(firewall.rules(topology, mesh)),
        redeploy=None if previous is None else redeploy(topology, previous),
        times=times(topology, mesh, Lines(measurement), loads) if measurement and loads else None,
        until=" or ".join(conditions(topology.run.until).values()) if topology.run.until else None,
        unseen=_unseen(topology.run.algorithm),
        privacy=None if refusal else _noise(topology.run, mesh),
        seen=_seen(topology.run, mesh),
        exposure=exposure(topology, mesh, curious) if curious and not refusal else None,
    )


def exposure(
    topology: Topology, mesh: Mesh, curious: int = 1, exchanges: int | None = None
) -> "PrivacyReport":
    """What coalitions of up to so many sites find out in a sound run; see ``flaremesh.privacy.report``.

    Raises:
        UnsoundRun: its algorithm may not be looked at.
    """
    # imported here: the algorithm is run on coefficients, and that needs torch
    from flaremesh.privacy.report import report

    if unseen := _unseen(topology.run.algorithm):
        raise UnsoundRun(unseen)
    return report(topology.run, mesh, curious, exchanges)


def _seen(run: Run, mesh: Mesh) -> str:
    """What neighbours see of each other, in words."""
    reason = aggregation.unsoundness(mesh.schedules, symmetric=mesh.properties.symmetric)
    if run.privacy.secure_aggregation:
        return reason or "sums over all neighbours of a site, and no vector of a single one"
    if reason:
        return f"each other's vectors; {reason}"
    return "each other's vectors; sums alone with privacy: {secure_aggregation: true}"


def _carried(topology: Topology, mesh: Mesh) -> dict[str, int]:
    sites = {site.name: site for site in topology.sites}
    edges = ((one, other) for one, other in mesh.graph.edges if one != other)
    words = (carried(topology, sites[one], sites[other]) for one, other in edges)
    return dict(Counter(word.value for word in words if word))


def _advice(topology: Topology, edges: Mapping[str, int]) -> str | None:
    if not edges.get(Carried.RELAYED) or topology.meeting_point or topology.run.links != "auto":
        return None
    return "the server passes on what is relayed, slowly; write meet: {} below server, and such sites meet"


def check(topology: Topology) -> Mesh:
    """Build the mesh and check that the topology's run is sound on it, as far as it may be looked at.

    Raises:
        UnsoundRun: unknown algorithm, wrong hyper-parameters, or weights that the algorithm is not made for.
        GraphError, MissingExtra: the mesh cannot be built from the topology.
    """
    mesh = build(topology)
    if refusal := _refusal(topology, mesh):
        raise UnsoundRun(refusal)
    return mesh


def unsoundness(algorithm: str, mesh: Mesh) -> str | None:
    """Why an algorithm would not do what it promises on this mesh, and the fix; None if it would."""
    properties = mesh.properties
    if not properties.primitive:
        return "mixing is periodic and never settles; lower the edges' weights so that sites keep their own"
    needed = algorithms.algorithm_class(algorithm).weights
    reason = needed.unsoundness(
        row_stochastic=properties.row_stochastic,
        column_stochastic=properties.column_stochastic,
        symmetric=properties.symmetric,
        phases=len(mesh.matrices),
    )
    if reason is None:
        return None
    if needed is Weights.COLUMN_STOCHASTIC:
        return f"{reason}; write weights: push-sum"
    if needed is Weights.SYMMETRIC and properties.doubly_stochastic:
        return f"{reason}; run {' or '.join(_made_for(Weights.DOUBLY_STOCHASTIC))}"
    if not directed(mesh.graph):
        return f"{reason}; write weights: metropolis"
    others = " or ".join(_made_for(Weights.COLUMN_STOCHASTIC))
    return f"{reason}; on a directed graph run {others}, with weights: push-sum"


def redeploy(topology: Topology, previous: Topology) -> dict[str, str]:
    """Participants to deploy anew, and which parts of their deployment have changed."""
    before, now = _deployments(previous), _deployments(topology)
    reasons = {}
    for participant, parts in now.items():
        if participant not in before:
            reasons[participant] = "new"
        elif changed := [part for part in parts if parts[part] != before[participant][part]]:
            reasons[participant] = f"{' and '.join(changed)} changed"
    return reasons


def _deployments(topology: Topology) -> dict[str, dict[str, Any]]:
    """What the deployment of each participant is made of, in words."""
    common = {
        "the name of the mesh": topology.name,
        "code": topology.code,
        "deploy": topology.deploy,
        "what is revoked": topology.certificates.revoked,
    }
    mesh = build(topology)
    allowed = charters(topology, mesh)
    dialled: dict[str, set[FirewallRule]] = {site.name: set() for site in topology.sites}
    for rule in firewall.rules(topology, mesh):
        if rule.target == SERVER:
            dialled[rule.source].add(rule)
    return {SERVER: {"its entry": topology.server} | common} | {
        site.name: {
            "its entry": site,
            "the server's address": dialled[site.name],
            "its neighbours": allowed[site.name].peers,
            "what it shares": topology.shared_by(site),
        }
        | common
        for site in topology.sites
    }


def _refusal(topology: Topology, mesh: Mesh) -> str | None:
    run = topology.run
    if found := cut_off(topology, mesh):
        _, lack, remedy = found
        return f"{lack}; {remedy}"
    if reason := run.wire.unsoundness(len(mesh.matrices)):
        return reason
    if "." not in run.algorithm and run.algorithm not in algorithms.names():
        return f"there is no algorithm {run.algorithm}; {instead(run.algorithm, algorithms.names())}"
    hoods = (hood for schedule in mesh.schedules.values() for hood in schedule)
    if reason := run.mixing.unsoundness(hoods, asynchronous=run.asynchronous):
        return reason
    symmetric = mesh.properties.symmetric
    if run.privacy.secure_aggregation and (
        reason := aggregation.unsoundness(mesh.schedules, symmetric=symmetric)
    ):
        return reason
    if _unseen(run.algorithm):
        return None
    try:
        algorithm = algorithms.configured(run)
    except ImportError as error:
        return f"the algorithm {run.algorithm} cannot be imported: {error}; is its package installed here?"
    except ClassPathError as error:
        return f"the algorithm {run.algorithm} cannot be used: {error}"
    except (TypeError, ValueError) as error:
        return f"the run's hyper-parameters do not fit: {error}; set them by stepsize and options"
    if run.on_loss == "continue" and not isinstance(algorithm, algorithms.Repairable):
        return (
            f"{run.algorithm} has no method repair, which says what its state becomes when sites have left; "
            "write on_loss: wait"
        )
    if run.mixing.clip is not None and (reason := algorithms.unclippable(algorithm, run.algorithm)):
        return reason
    if reason := unsoundness(run.algorithm, mesh):
        return f"{run.algorithm} is not sound on this graph: {reason}"
    if run.asynchronous and (reason := _asynchrony_unsoundness(run, mesh)):
        return f"{run.algorithm} is not sound with asynchronous: true: {reason}"
    if reason := run.privacy.unsoundness(
        asynchronous=run.asynchronous, phases=len(mesh.matrices), resumable=run.on_loss != "fail"
    ):
        return reason
    try:
        _budget(run, mesh)
    except PrivacyError as error:
        return str(error)
    return None


def with_sigma(run: Run, mesh: Mesh) -> Privacy:
    """The run's privacy with the noise that its budget needs, so that sites can be asked about it."""
    if run.privacy.sigma is not None or (budget := _budget(run, mesh)) is None:
        return run.privacy
    return run.privacy.model_copy(update={"sigma": budget.sigma})


def _budget(run: Run, mesh: Mesh) -> Budget | None:
    if run.privacy.epsilon is None:
        return None
    # imported here: an algorithm is run to count its gradients, and that needs torch
    from flaremesh.privacy.queries import queries_of

    queries = queries_of(algorithms.configured(run))
    return budget_of(run.privacy, queries, run.iterations, pairs_of([*mesh.graph.edges], mesh.sites))


def _noise(run: Run, mesh: Mesh) -> NoisePlan | None:
    budget = None if _unseen(run.algorithm) else _budget(run, mesh)
    if budget is None:
        return None
    made, queries = budget.queries, budget.most
    error = budget.noise / math.sqrt(len(mesh.sites))
    coalition = {0: "whoever takes part in nothing", 1: "any one site"}
    curious = run.privacy.curious
    return NoisePlan(
        epsilon=budget.epsilon,
        delta=budget.delta,
        unit="all that a site has" if run.privacy.examples is None else "an example",
        against="all other sites together"
        if run.privacy.noise == "independent"
        else coalition.get(curious, f"any {curious} sites together"),
        noise=run.privacy.noise,
        sigma=budget.sigma,
        rdp=budget.rdp,
        queries=queries,
        iterations=budget.iterations,
        asked=run.iterations,
        spent=budget.spent(queries),
        gradient_error=error,
        model_error=None if made.step is None else made.step * error * math.sqrt(queries),
    )


def _asynchrony_unsoundness(run: Run, mesh: Mesh) -> str | None:
    return algorithms.asynchrony_unsoundness(
        algorithms.algorithm_class(run.algorithm),
        symmetric=mesh.properties.symmetric,
        phases=len(mesh.matrices),
        keeps_copies=run.wire.keeps_copies,
    )


def _unseen(algorithm: str) -> str | None:
    place = import_path.left_out(package_of(algorithm)) if "." in algorithm else None
    if place is None:
        return None
    return (
        f"{algorithm} lies in {place}, and no code is imported from there for a plan, so whether it is "
        "sound here is unknown; --build-problem imports it, and tells"
    )


def _made_for(weights: Weights) -> list[str]:
    return [name for name in algorithms.names() if algorithms.algorithm_class(name).weights is weights]


def _graph(mesh: Mesh) -> GraphSummary:
    degrees = [degree for _, degree in mesh.graph.in_degree]
    return GraphSummary(
        sites=len(mesh.sites),
        edges=mesh.graph.number_of_edges(),
        directed=directed(mesh.graph),
        phases=len(mesh.matrices),
        in_degrees=(min(degrees), max(degrees)),
    )


def _mixing(topology: Topology, mesh: Mesh) -> Mixing:
    properties = mesh.properties
    contraction = mesh.contraction(topology.run.wire.step)
    influence = None
    if properties.connected and properties.row_stochastic and not properties.column_stochastic:
        shares = stationary(period(mesh.matrices))
        influence = dict(zip(mesh.sites, shares.tolist(), strict=True))
    return Mixing(
        weights=topology.weights,
        symmetric=properties.symmetric,
        doubly_stochastic=properties.doubly_stochastic,
        row_stochastic=properties.row_stochastic,
        column_stochastic=properties.column_stochastic,
        primitive=properties.primitive,
        predicted_contraction=contraction,
        cycle_contraction=contraction ** len(mesh.matrices),
        spectral_gap=properties.spectral_gap,
        iterations_to_a_thousandth=iterations_to(1e-3, contraction, len(mesh.matrices)),
        influence=influence,
    )


def _message(topology: Topology, build_problem: bool, refusal: str | None) -> tuple[Message, WireLoads]:
    """The message, and what each wire would send, as far as that can be known."""
    if refusal:
        return Message(None, why_unknown="the run is refused"), []
    if _unseen(topology.run.algorithm):
        return Message(None, why_unknown="the algorithm was not imported"), []
    vectors = sum(exchange.vectors for exchange in algorithms.configured(topology.run).exchanges)
    if not build_problem:
        return Message(vectors, why_unknown="--build-problem builds the problem, and tells"), []
    # imported here: only the size of a model needs torch, and importing it takes seconds
    from flaremesh.problems.protocol import ProblemError
    from flaremesh.provision.payload import loads

    try:
        found = loads(topology, wires_of(topology.run))
    except ProblemError as error:
        return Message(vectors, why_unknown=str(error)), []
    _, own = found[0]
    return Message(vectors, sum(load.bytes for load in own)), found
