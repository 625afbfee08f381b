"""What a plan says of a topology: sound algorithms, messages, and whom a change affects."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from flaremesh.algorithms import Weights
from flaremesh.provision import firewall
from flaremesh.provision.firewall import FirewallRule
from flaremesh.provision.plan import UnsoundRun, check, plan
from flaremesh.topology.checks import mistakes
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import Topology

DIGITS = {"path": "flaremesh.problems.digits.Digits"}


@dataclass(frozen=True)
class Undeclared:
    """What an algorithm was before it could exchange several times."""

    weights: ClassVar = Weights.DOUBLY_STOCHASTIC


def topology(sites: Any = "heidelberg bonn aachen dresden", run: Any = None, **sections: Any) -> Topology:
    """A ring, unless a section says otherwise; a site written with a + has a link address."""
    return Topology.model_validate(
        {
            "apiVersion": "flaremesh/v1",
            "name": "mesh",
            "server": {"host": "flare.example.org", "org": "consortium"},
            "admins": [{"email": "admin@consortium.org", "org": "consortium"}],
            "sites": [site(name) for name in sites.split()] if isinstance(sites, str) else sites,
            "graph": {"kind": "ring"},
            "run": {
                "algorithm": "consensus",
                "iterations": 10,
                "problem": {"path": "flaremesh.problems.consensus.Consensus"},
            }
            | (run or {}),
        }
        | sections
    )


def site(word: str) -> dict[str, Any]:
    name = word.rstrip("+")
    link = {"link": {"host": f"{name}.example.org", "ports": "8102-8105"}} if word.endswith("+") else {}
    return {"name": name, "org": "lab"} | link


def edges(*ends: str, weight: float | None = None, directed: bool = True) -> dict[str, Any]:
    listed = [dict(zip(("from", "to"), pair.split(">"), strict=True)) for pair in ends]
    return {"directed": directed, "edges": [edge | ({"weight": weight} if weight else {}) for edge in listed]}


# the ways of edges


@pytest.mark.parametrize(
    ("sites", "sections", "expected"),
    [
        ("a+ b+ c+ d+", {}, {"direct": 8}),
        ("a+ b+ c+ d", {}, {"direct": 6, "dialled back": 2}),
        ("a+ b+ c d", {}, {"direct": 4, "dialled back": 2, "relayed": 2}),
        ("a b c d", {"run": {"links": "relay"}}, {"relayed": 8}),
        ("a+ b+ c+ d+", {"run": {"links": "met"}, "meet": {}}, {"met": 8}),
        ("a b c d", {"meet": {}}, {"met": 8}),
    ],
)
def test_the_plan_says_how_messages_will_travel(sites: str, sections: Any, expected: Any) -> None:
    server = {"host": "flare.example.org", "org": "consortium"}
    met = {"server": server | {"meet": sections["meet"]}} if "meet" in sections else {}
    assert plan(topology(sites, sections.get("run"), **met)).carried == expected


def test_who_relays_without_a_meeting_point_is_told_how_sites_would_meet() -> None:
    assert "meet: {}" in str(plan(topology("a+ b c d+")).advice)
    assert plan(topology("a+ b+ c+ d+")).advice is None
    assert plan(topology("a b c d", {"links": "relay"})).advice is None


# soundness


def test_a_directed_ring_with_equal_weights_is_doubly_stochastic_and_so_sound_for_consensus() -> None:
    ring = edges("bonn>heidelberg", "aachen>bonn", "heidelberg>aachen", weight=0.1)

    mesh = check(topology("heidelberg bonn aachen", graph=ring, weights="explicit"))

    assert mesh.properties.doubly_stochastic
    assert not mesh.properties.symmetric


@pytest.mark.parametrize("algorithm", ["push-sum", "sgp"])
def test_push_sum_weights_make_any_directed_graph_sound_for_push_sum_algorithms(algorithm: str) -> None:
    graph = edges("heidelberg>bonn", "bonn>aachen", "aachen>heidelberg", "heidelberg>aachen")
    run = {"algorithm": algorithm} | ({"stepsize": 0.1} if algorithm == "sgp" else {})

    check(topology("heidelberg bonn aachen", graph=graph, weights="push-sum", run=run))


REFUSED = {
    "gradient tracking with push-sum weights on a directed graph": (
        {
            "graph": edges("bonn>heidelberg", "heidelberg>bonn", "bonn>aachen", "aachen>heidelberg"),
            "sites": "heidelberg bonn aachen",
            "weights": "push-sum",
            "run": {"algorithm": "gradient-tracking", "stepsize": 0.1},
        },
        "gradient-tracking is not sound.*rows.*run push-diging or push-pull or .*sgp, with weights: push-sum",
    ),
    "consensus with push-sum weights on an undirected graph": (
        {"graph": {"kind": "star"}, "weights": "push-sum"},
        "rows .* do not sum to one; write weights: metropolis",
    ),
    "consensus with row-stochastic weights": (
        {"graph": {"kind": "star"}, "weights": "uniform"},
        "columns .* do not sum to one; write weights: metropolis",
    ),
    "push-sum with row-stochastic weights": (
        {"graph": {"kind": "star"}, "weights": "uniform", "run": {"algorithm": "push-sum"}},
        "columns .* do not sum to one; write weights: push-sum",
    ),
    "weights that leave every site nothing of its own": (
        {
            "graph": edges(
                "heidelberg>bonn",
                "bonn>aachen",
                "aachen>dresden",
                "dresden>heidelberg",
                weight=0.5,
                directed=False,
            ),
            "weights": "explicit",
        },
        "periodic",
    ),
    "unknown algorithm": ({"run": {"algorithm": "gradient-traking"}}, "did you mean gradient-tracking?"),
    "a package that is not installed": (
        {"run": {"algorithm": "nowhere.Algorithm"}},
        "cannot be imported: No module named 'nowhere'; is its package installed here?",
    ),
    "a class that declares no exchanges": (
        {"run": {"algorithm": f"{__name__}.Undeclared"}},
        r"cannot be used: .*Undeclared does not say its exchanges, such as exchanges = \(Exchange\(\),\)$",
    ),
    "missing step size": ({"run": {"algorithm": "dgd"}}, "dgd needs a value for stepsize"),
    "unknown option": (
        {"run": {"algorithm": "gtadam", "stepsize": 0.1, "options": {"beta3": 1}}},
        "gtadam has no parameter beta3; it takes stepsize, beta1",
    ),
    "copies of neighbours that change": (
        {"graph": {"kind": "one-peer-exponential"}, "weights": "uniform", "run": {"wire": "int8"}},
        "wire: int8 keeps copies .*; write wire: bfloat16, or choose a graph that stays",
    ),
    "clipping of what is summed over all sites": (
        {"run": {"algorithm": "gradient-tracking", "stepsize": 0.1, "mixing": {"clip": "auto"}}},
        "keeps no sum over all sites, and gradient-tracking .*remove mixing.clip, or run dgd or dgd-atc or",
    ),
    "clipping of a push-sum weight": (
        {"run": {"algorithm": "sgp", "stepsize": 0.1, "mixing": {"clip": 1.0}}, "weights": "push-sum"},
        "keeps no sum over all sites, and sgp needs one",
    ),
    "a single neighbour with nobody to compare it with": (
        {"graph": {"kind": "path"}, "run": {"algorithm": "dgd", "stepsize": 0.1, "mixing": {"clip": "auto"}}},
        "clip: auto compares .*, and heidelberg has a single one; write a number, or choose a graph",
    ),
    "neighbours that come one by one": (
        {
            "run": {
                "algorithm": "local-dgd",
                "stepsize": 0.1,
                "mixing": {"clip": "auto"},
                "asynchronous": True,
            }
        },
        "of which often one alone has come with asynchronous: true; write a number",
    ),
    "direct links between sites without addresses": (
        {"run": {"links": "direct"}},
        r"needs an address at one of two neighbours; \w+ and \w+ have none; write link: .* or links: auto",
    ),
    "meetings without a meeting point": (
        {"run": {"links": "met"}},
        r"neither \w+ nor \w+ has one to go to; write meet: {} below server, or links: auto",
    ),
    "option out of range": (
        {"run": {"algorithm": "gtadam", "stepsize": 0.1, "options": {"beta1": 2}}},
        "beta1",
    ),
}


@pytest.mark.parametrize(("sections", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_run_is_refused_with_the_reason_and_the_fix(sections: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsoundRun, match=words):
        check(topology(**sections))

    assert plan(topology(**sections)).refusal is not None


def test_the_plan_says_which_algorithms_are_sound() -> None:
    algorithms = plan(topology(graph={"kind": "star"}, weights="push-sum")).algorithms

    assert {name for name, reason in algorithms.items() if reason is None} == {
        "push-diging",
        "push-pull",
        "push-sum",
        "robust-push-sum",
        "sgp",
    }


# traffic


def payload_bytes(run: Any) -> int | None:
    return plan(topology(run=run), build_problem=True).message.payload_bytes


def test_gradient_tracking_sends_twice_the_bytes_of_gradient_descent() -> None:
    descent, tracking = (
        payload_bytes({"algorithm": name, "stepsize": 0.1, "problem": DIGITS})
        for name in ("dgd", "gradient-tracking")
    )

    assert descent is not None
    assert tracking == 2 * descent


@pytest.mark.parametrize(
    ("algorithm", "vectors"), [("dgd", 1), ("gradient-tracking", 2), ("gradient-tracking-atc", 2)]
)
def test_how_often_the_model_is_sent_is_known_without_the_problem(algorithm: str, vectors: int) -> None:
    assert plan(topology(run={"algorithm": algorithm, "stepsize": 0.1})).message.vectors == vectors


def test_the_bytes_of_an_iteration_are_summed_over_its_exchanges(tmp_path: Path) -> None:
    (tmp_path / "twice_planned.py").write_text(
        "import torch\n"
        "class Normalised:\n"
        "    def __init__(self, site): self.statistics = torch.zeros(10)\n"
        "    def initial(self): return torch.zeros(1000)\n"
        "    def buffers(self): return self.statistics\n"
        "    def loss_and_gradient(self, x): raise AssertionError('a plan needs no gradient')\n"
        "    def evaluate(self, x): return {}\n"
        "    def state(self, x): return {}\n"
    )
    problem = {"file": tmp_path / "twice_planned.py", "name": "Normalised"}
    run = {"algorithm": "gradient-tracking-atc", "stepsize": 0.1, "problem": problem}

    assert payload_bytes(run) == 4 * (1000 + 1000 + 10)


def test_a_message_of_push_sum_carries_its_weight_and_the_buffers_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "planned_problem.py").write_text(
        "import torch\n"
        "class Normalised:\n"
        "    def __init__(self, site, size): self.size, self.statistics = size, torch.zeros(10)\n"
        "    def initial(self): return torch.zeros(self.size)\n"
        "    def buffers(self): return self.statistics\n"
        "    def loss_and_gradient(self, x): return x.sum(), x\n"
        "    def evaluate(self, x): return {}\n"
        "    def state(self, x): return {}\n"
    )
    problem = {"file": tmp_path / "planned_problem.py", "name": "Normalised", "args": {"size": 1000}}
    run = {"algorithm": "push-sum", "problem": problem}

    assert payload_bytes(run) == 4 * (1000 + 1 + 10)
    assert payload_bytes(run | {"mix_buffers": False}) == 4 * (1000 + 1)


@pytest.mark.parametrize(
    ("wire", "bytes_per_entry"),
    [
        ("exact", 4),
        ("bfloat16", 2),
        ("int8", 1 + 4 / 1024),
        ({"encoding": "top-k", "fraction": 0.05}, 0.05 * 6),
    ],
)
def test_a_message_is_as_long_as_its_wire_makes_it_and_the_buffers_stay_exact(
    wire: Any, bytes_per_entry: float, tmp_path: Path
) -> None:
    (tmp_path / "wired_problem.py").write_text(
        "import torch\n"
        "class Normalised:\n"
        "    def __init__(self, site): self.statistics = torch.zeros(50_000)\n"
        "    def initial(self): return torch.zeros(1_000_000)\n"
        "    def buffers(self): return self.statistics\n"
        "    def loss_and_gradient(self, x): return x.sum(), x\n"
        "    def evaluate(self, x): return {}\n"
        "    def state(self, x): return {}\n"
    )
    problem = {"file": tmp_path / "wired_problem.py", "name": "Normalised"}
    run = {"algorithm": "gradient-tracking", "stepsize": 0.1, "problem": problem, "wire": wire}

    assert payload_bytes(run) == pytest.approx(2 * 1_000_000 * bytes_per_entry + 4 * 50_000, rel=1e-3)


def test_the_plan_says_why_the_size_of_a_message_is_unknown() -> None:
    nowhere = topology(run={"problem": {"path": "flaremesh.problems.nowhere.Nothing"}})

    message = plan(nowhere, build_problem=True).message

    assert message.payload_bytes is None
    assert message.why_unknown is not None
    assert "No module named 'flaremesh.problems.nowhere'" in message.why_unknown


def test_a_plan_runs_no_code_of_the_problem_unless_it_is_asked_to(tmp_path: Path) -> None:
    (tmp_path / "telltale.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nclass Problem: pass\n"
    )
    mailed = topology(run={"problem": {"file": tmp_path / "telltale.py", "name": "Problem"}})

    message = plan(mailed).message

    assert message.vectors == 1
    assert message.payload_bytes is None
    assert message.why_unknown == "--build-problem builds the problem, and tells"
    assert not (tmp_path / "ran").exists()
    plan(mailed, build_problem=True)
    assert (tmp_path / "ran").exists()


def test_the_influence_of_sites_is_shown_where_it_is_not_equal() -> None:
    star = plan(topology(graph={"kind": "star"}, weights="uniform")).mixing

    assert plan(topology()).mixing.influence is None
    assert plan(topology(graph={"kind": "star"}, weights="push-sum")).mixing.influence is None
    assert star.influence is not None
    assert star.influence["heidelberg"] > star.influence["bonn"]
    assert sum(star.influence.values()) == pytest.approx(1)


# firewalls


def rules(mesh: Topology) -> set[tuple[str, str, str, str]]:
    return {(rule.source, rule.target, rule.host, rule.ports) for rule in firewall.rules(mesh, build(mesh))}


def test_every_site_must_reach_the_server_and_nothing_else_without_links() -> None:
    assert rules(topology("bonn aachen")) == {
        ("bonn", "server", "flare.example.org", "8002"),
        ("aachen", "server", "flare.example.org", "8002"),
    }


def test_in_neighbours_must_reach_the_ports_of_a_site_with_a_link() -> None:
    ring = topology("heidelberg+ bonn aachen dresden")

    assert {rule for rule in rules(ring) if rule[1] != "server"} == {
        ("bonn", "heidelberg", "heidelberg.example.org", "8102-8105"),
        ("dresden", "heidelberg", "heidelberg.example.org", "8102-8105"),
    }


def test_relayed_runs_need_no_ports_of_sites() -> None:
    relayed = topology("heidelberg+ bonn+ aachen+", run={"links": "relay"})

    assert {rule[1] for rule in rules(relayed)} == {"server"}


def test_a_directed_edge_opens_one_direction() -> None:
    ring = topology("heidelberg+ bonn+ aachen+", graph={"kind": "ring", "directed": True}, weights="uniform")

    assert ("heidelberg", "bonn", "bonn.example.org", "8102-8105") in rules(ring)
    assert ("bonn", "heidelberg", "heidelberg.example.org", "8102-8105") not in rules(ring)


# redeployment


def redeployed(before: Topology, now: Topology) -> dict[str, str] | None:
    return plan(now, previous=before).redeploy


def test_a_first_plan_redeploys_nothing_in_particular() -> None:
    assert plan(topology()).redeploy is None


def test_another_run_redeploys_nobody() -> None:
    other = topology(run={"algorithm": "dgd", "stepsize": 0.1, "iterations": 99})

    assert redeployed(topology(), other) == {}


def test_a_relayed_site_that_joins_redeploys_those_whose_kits_must_know_it() -> None:
    assert redeployed(topology("heidelberg bonn aachen"), topology("heidelberg bonn aachen kiel")) == {
        "heidelberg": "its neighbours changed",
        "aachen": "its neighbours changed",
        "kiel": "new",
    }


def test_a_revoked_certificate_redeploys_everybody() -> None:
    reasons = redeployed(topology(), topology(certificates={"revoked": ["5"]}))

    everybody = ["server", "heidelberg", "bonn", "aachen", "dresden"]
    assert reasons == dict.fromkeys(everybody, "what is revoked changed")


def test_a_site_with_a_link_that_joins_redeploys_its_neighbours_too() -> None:
    before = topology("heidelberg+ bonn+ aachen+ dresden+")
    now = topology("heidelberg+ bonn+ aachen+ dresden+ kiel+")

    assert redeployed(before, now) == {
        "heidelberg": "its neighbours changed",
        "dresden": "its neighbours changed",
        "kiel": "new",
    }


def test_a_changed_entry_redeploys_its_site_only() -> None:
    sites = [site("heidelberg"), site("bonn") | {"gpus": 1}, site("aachen"), site("dresden")]

    assert redeployed(topology(), topology(sites=sites)) == {"bonn": "its entry changed"}


def test_what_sites_share_redeploys_those_that_share_something_else_now() -> None:
    own = {"metrics": {"share": []}}
    sites = [site("heidelberg"), site("bonn") | own, site("aachen"), site("dresden") | own]
    before, now = topology(sites=sites), topology(sites=sites, metrics={"share": ["train_loss"]})

    assert redeployed(before, now) == dict.fromkeys(["heidelberg", "aachen"], "what it shares changed")


def test_a_moved_server_redeploys_everybody() -> None:
    moved = topology(server={"host": "new.example.org", "org": "consortium"})

    reasons = redeployed(topology(), moved)

    assert reasons is not None
    assert set(reasons) == {"server", "heidelberg", "bonn", "aachen", "dresden"}
    assert reasons["bonn"] == "the server's address changed"


def test_a_plan_can_be_written_as_json() -> None:
    document = json.loads(json.dumps(asdict(plan(topology("heidelberg+ bonn+ aachen+"), topology()))))

    assert FirewallRule(**document["firewall"][0]).target == "server"
    assert document["mixing"]["predicted_contraction"] == pytest.approx(0, abs=1e-9)


def test_compression_slows_down_what_is_predicted() -> None:
    # the ring of four has the eigenvalues 1, 1/3, 1/3 and -1/3, and γ is the fraction
    compressed = topology(run={"wire": {"encoding": "top-k", "fraction": 0.1}})

    predicted = plan(compressed).mixing

    assert predicted.predicted_contraction == pytest.approx(1 - 0.1 * (1 - 1 / 3))
    assert predicted.spectral_gap == pytest.approx(1 - 1 / 3)
    assert predicted.iterations_to_a_thousandth == 101


# privacy budgets


BUDGET = {"epsilon": 8, "delta": 1e-5, "clip": 1.0}


def private(privacy: dict[str, Any], algorithm: str = "dgd-atc", **run: Any) -> Topology:
    said = {"algorithm": algorithm, "stepsize": 0.1, "iterations": 100, "on_loss": "fail"} | run
    return topology(run=said | {"privacy": BUDGET | privacy})


def test_a_plan_says_the_noise_that_a_budget_needs_and_what_it_costs() -> None:
    noise = plan(private({"examples": 50})).privacy
    assert noise is not None
    assert (noise.unit, noise.against, noise.iterations) == ("an example", "all other sites together", 100)
    assert noise.spent == pytest.approx(8)
    assert noise.queries == 101  # one before the first message
    assert noise.gradient_error == pytest.approx(noise.sigma / 50 / 2)  # of four sites
    assert noise.model_error == pytest.approx(0.1 * noise.gradient_error * 101**0.5)


def test_a_plan_says_how_many_iterations_a_budget_allows() -> None:
    noise = plan(private({"sigma": 4.0})).privacy
    assert noise is not None
    assert 1 < noise.iterations < noise.asked == 100
    assert noise.spent <= 8


def test_correlated_noise_needs_less_of_each_site_and_says_against_whom_it_holds() -> None:
    alone, shared = plan(private({})).privacy, plan(private({"noise": "correlated"})).privacy
    assert alone is not None
    assert shared is not None
    assert shared.sigma < alone.sigma
    assert shared.against == "any one site"
    outside = plan(private({"noise": "correlated", "curious": 0})).privacy
    assert outside is not None
    assert outside.sigma < shared.sigma
    assert outside.against == "whoever takes part in nothing"


@pytest.mark.parametrize(
    ("privacy", "run", "words"),
    [
        ({}, {"on_loss": "wait"}, "write on_loss: fail"),
        ({"sigma": 0.1}, {}, "write a greater sigma, or none"),
        ({}, {"algorithm": "consensus", "stepsize": None}, "the algorithm asks for no gradient"),
        (
            {"noise": "correlated"},
            {"algorithm": "gradient-tracking", "asynchronous": True},
            "write noise: independent",
        ),
    ],
)
def test_a_budget_that_would_not_hold_is_refused(
    privacy: dict[str, Any], run: dict[str, Any], words: str
) -> None:
    asked = private(privacy, **run)
    assert words in str(plan(asked).refusal)
    with pytest.raises(UnsoundRun, match=words):
        check(asked)


def test_without_a_budget_a_plan_says_nothing_of_noise() -> None:
    assert plan(topology()).privacy is None


@pytest.mark.parametrize("missing", BUDGET)
def test_a_part_of_a_budget_is_none(missing: str) -> None:
    with pytest.raises(ValueError, match="a budget is epsilon, delta and clip"):
        topology(run={"privacy": {name: value for name, value in BUDGET.items() if name != missing}})


# secure aggregation

HIDDEN = {"privacy": {"secure_aggregation": True}}
SEVEN = [{"name": name, "org": "o"} for name in "abcdefg"]


def test_a_plan_says_what_neighbours_see_and_who_would_see_whom() -> None:
    complete = {"kind": "complete"}
    assert "sums alone with privacy: {secure_aggregation" in plan(topology(graph=complete)).seen
    assert plan(topology(graph=complete, run=HIDDEN)).seen.startswith("sums over all neighbours of a site")
    ring = plan(topology(sites=SEVEN)).seen
    assert ring.startswith(
        "each other's vectors; secure aggregation needs neighbours that are joined: a would"
    )


def test_secure_aggregation_is_refused_where_it_would_hide_nothing() -> None:
    refused = plan(topology(sites=SEVEN, run=HIDDEN)).refusal
    assert refused is not None
    assert "a would see b and g" in refused
    assert "add the edges {from: b, to: g}, " in refused


@pytest.mark.parametrize(
    ("run", "where", "words"),
    [
        ({"wire": "int8"}, ("run", "wire"), "write wire: exact, or float32"),
        ({"wire": {"encoding": "top-k", "fraction": 0.1}}, ("run", "wire"), "write wire: exact, or float32"),
        ({"mixing": {"clip": 1.0}}, ("run", "mixing", "clip"), "remove clip, or secure_aggregation"),
        ({"asynchronous": True, "on_loss": "fail"}, ("run", "asynchronous"), "remove asynchronous"),
    ],
)
def test_what_secure_aggregation_does_not_go_together_with_is_a_mistake_of_the_file(
    run: dict[str, Any], where: tuple[str, ...], words: str
) -> None:
    found = {mistake.location: mistake.remedy for mistake in mistakes({"run": HIDDEN | run})}
    assert found[where].startswith(words)
    assert where not in {mistake.location for mistake in mistakes({"run": run})}


def test_a_hidden_message_is_longer_by_a_check_and_two_short_messages() -> None:
    complete: Any = {"graph": {"kind": "complete"}}
    plain = plan(topology(run={"problem": DIGITS}, **complete), build_problem=True).message.payload_bytes
    run = {"problem": DIGITS} | HIDDEN
    hidden = plan(topology(run=run, **complete), build_problem=True).message.payload_bytes
    assert plain is not None
    assert hidden == plain + 8 + 2 + 11
