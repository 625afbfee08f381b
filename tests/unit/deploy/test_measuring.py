"""Which pairs are measured when, and what becomes of their figures."""

import pytest

from flaremesh.cli import doctor
from flaremesh.deploy.targets.base import Participant
from flaremesh.deploy.watch.measuring import Pair, measure, pairs_of, together, turns_of
from flaremesh.links.speed import Speed
from flaremesh.p2p.agents.doctor import EDGES, MEASURE_PATH, Asked, Edge
from flaremesh.p2p.costs import PATH, Cost
from flaremesh.topology.links import Carried, LinkKind
from flaremesh.topology.schema import Topology


def topology(sites, graph, hidden=(), meet=None, mode="auto"):
    links = {"link": {"host": "localhost", "ports": "9000-9001"}}
    return Topology.model_validate(
        {
            "apiVersion": "flaremesh/v1",
            "name": "measured",
            "server": {"host": "localhost", "org": "lab"} | ({"meet": {}} if meet else {}),
            "admins": [{"email": "admin@lab.org", "org": "lab"}],
            "sites": [{"name": name, "org": "lab"} | ({} if name in hidden else links) for name in sites],
            "graph": graph,
            "run": {
                "algorithm": "consensus",
                "iterations": 1,
                "links": mode,
                "problem": {"path": "flaremesh.problems.consensus.Consensus"},
            },
        }
    )


def test_of_each_two_neighbours_one_dials_whoever_can():
    ring = topology("abcd", {"kind": "ring"}, hidden="a")
    pairs = pairs_of(ring)
    assert sorted(sorted(pair[:2]) for pair in pairs) == [["a", "b"], ["a", "d"], ["b", "c"], ["c", "d"]]
    assert {pair.dialler for pair in pairs if "a" in pair} == {"a"}


@pytest.mark.parametrize(("mode", "kind"), [("auto", LinkKind.DIRECT), ("met", LinkKind.MET)])
def test_neighbours_that_cannot_dial_each_other_meet(mode, kind):
    path = topology("abc", {"kind": "path"}, hidden="ab", meet=True, mode=mode)
    assert pairs_of(path) == [Pair("a", "b", LinkKind.MET), Pair("b", "c", kind)]


def test_neighbours_that_can_neither_dial_each_other_nor_meet_take_the_relay():
    path = topology("abc", {"kind": "path"}, hidden="ab")
    assert pairs_of(path) == [Pair("a", "b", LinkKind.RELAY), Pair("b", "c")]
    all_relayed = topology("abc", {"kind": "path"}, meet=True, mode="relay")
    assert pairs_of(all_relayed) == [Pair("a", "b", LinkKind.RELAY), Pair("b", "c", LinkKind.RELAY)]


def test_neighbours_for_which_the_run_leaves_no_way_are_no_pair():
    assert pairs_of(topology("abc", {"kind": "path"}, hidden="ab", mode="direct")) == [Pair("b", "c")]


@pytest.mark.parametrize("kind", ["ring", "star", "complete"])
def test_a_site_has_one_pair_in_a_turn_and_every_pair_a_turn(kind):
    pairs = pairs_of(topology("abcdef", {"kind": kind}))
    turns = turns_of(pairs)
    assert sorted(pair for turn in turns for pair in turn) == sorted(pairs)
    for turn in turns:
        sites = [site for pair in turn for site in pair[:2]]
        assert len(sites) == len(set(sites))


def test_each_direction_of_a_pair_has_its_own_rates():
    path = topology("ab", {"kind": "path"})
    alone = {Pair("a", "b"): Edge("b", "", True, speed=Speed(0.01, 100.0, 200.0))}
    busy = {Pair("a", "b"): Edge("b", "", True, speed=Speed(0.05, 50.0, 60.0))}
    measured = together(path, alone, busy, {})
    rates = {(edge.source, edge.target): (edge.rate, edge.busy_rate) for edge in measured.edges}
    assert rates == {("a", "b"): (100.0, 50.0), ("b", "a"): (200.0, 60.0)}
    assert {edge.round_trip for edge in measured.edges} == {0.01}


def test_what_was_measured_says_how_it_travelled():
    path = topology("abc", {"kind": "path"}, hidden="ab")
    found = {pair: Edge(pair.peer, "", True, speed=Speed(0.01, 1e6, 1e6)) for pair in pairs_of(path)}
    measured = together(path, found, found, {})
    assert {(edge.source, edge.target): edge.link for edge in measured.edges} == {
        ("a", "b"): Carried.RELAYED,
        ("b", "a"): Carried.RELAYED,
        ("b", "c"): Carried.DIRECT,
        ("c", "b"): Carried.DIALLED_BACK,
    }


def test_what_was_not_measured_says_why():
    path = topology("abc", {"kind": "path"}, hidden="ab", mode="direct")
    failed = {Pair("b", "c"): Edge("c", "", None, "a run goes on at b.")}
    measured = together(path, failed, failed, {})
    assert measured.edges == []
    whys = {frozenset((edge.source, edge.target)): edge.why for edge in measured.unmeasured}
    assert whys == {
        frozenset("ab"): "there is no way for links: direct",
        frozenset("bc"): "a run goes on at b",
    }


class Agents:
    """A target whose agents answer as those of sites do, and which keeps what they were asked.

    It stands for the network between this machine and the agents, which the integration tests have.
    """

    def __init__(self, sites, silent=()):
        self._sites, self._silent, self.asked = sites, silent, []

    def participants(self):
        return [Participant(name, True, True, "", None) for name in ("server", *self._sites)]

    def ask(self, participant, path):
        self.asked.append((participant, path))
        if participant in self._silent:
            return None
        if path == PATH:
            return b'{"exact": {"mix": 1e-9}}'
        where, _, query = path.partition("?")
        assert where == MEASURE_PATH
        edges = [
            Edge(peer, "", True, speed=Speed(0.01, 1e6, 1e6)) for peers in Asked.read(query) for peer in peers
        ]
        return EDGES.json(edges).encode()


@pytest.mark.parametrize("meet", [True, False])
@pytest.mark.parametrize("hidden", ["", "ab", "abcd"])
def test_pairs_are_measured_in_turns_and_then_all_at_once(hidden, meet):
    ring = topology("abcd", {"kind": "ring"}, hidden, meet=meet)
    agents = Agents("abcd")
    measured = measure(ring, agents, lambda words: None)
    assert len(measured.edges) == 8
    assert measured.costs == {site: {"exact": Cost(mix=1e-9)} for site in "abcd"}
    paths = [path for _, path in agents.asked if path != PATH]
    asked = [peer for path in paths for peers in Asked.read(path.partition("?")[2]) for peer in peers]
    assert len(asked) == 8  # four pairs, twice


@pytest.mark.parametrize("query", ["", ";", "b", "b;c", ";c", "b,c;d", "x;y;z", ";;;;d", "\n"])
def test_a_site_takes_any_text_for_the_names_of_peers(query):
    assert all(all(peers) for peers in Asked.read(query))


def test_a_site_reads_whom_it_was_asked_to_measure():
    asked = Asked(frozenset("ab"), frozenset("c"), frozenset("de"))
    assert Asked.read(asked.query()) == asked


def test_an_agent_that_does_not_answer_takes_its_edges_with_it_and_no_others(capsys):
    path = topology("abc", {"kind": "path"})
    measured = measure(path, Agents("abc", silent="b"), lambda words: None)
    away = {pair.dialler for pair in pairs_of(path)} & {"b"}
    assert all("b does not answer" in edge.why for edge in measured.unmeasured)
    assert bool(measured.unmeasured) == bool(away)
    doctor._show_speeds(measured)
    assert "round trip" in capsys.readouterr().out
