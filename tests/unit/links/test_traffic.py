"""The words that users read of how an edge travels, and what is counted of its changes."""

import logging

import pytest
from direct_mesh import edges_of

from flaremesh.links import LinkKind
from flaremesh.links.traffic import TrafficCounter
from flaremesh.topology.links import Carried, carried_in_words

DIRECT, MET, RELAY = LinkKind


@pytest.fixture
def edges():
    return edges_of("a", "b", "b", observer=TrafficCounter("b"), wanted={"b": MET})


def test_a_run_that_falls_back_on_the_relay_and_returns_is_told_counted_and_worse_meanwhile(edges, caplog):
    caplog.set_level(logging.INFO)
    traffic, seen = edges.observer, []
    for before, kind in ((None, MET), (MET, RELAY), (RELAY, RELAY), (RELAY, MET)):
        edges.tell("b", before, kind)
        seen.append((traffic.links["b"], traffic.worse["b"]))
    assert seen == [("met", False), ("relayed", True), ("relayed", True), ("met", False)]
    assert traffic.changes == {("b", "relayed"): 1, ("b", "met"): 1}
    assert [record.message for record in caplog.records] == [
        "a -> b: met",
        "a -> b: the met link is lost, from now on relayed",
        "a -> b: from now on met again",
    ]


def test_an_edge_over_a_connection_that_only_its_receiver_can_dial_is_dialled_back(edges, caplog):
    caplog.set_level(logging.INFO)
    edges.dialling_back.add("b")
    edges.tell("b", None, DIRECT)
    assert edges.observer.links == {"b": "dialled back"}
    edges.tell("b", DIRECT, RELAY)
    assert edges.observer.links == {"b": "relayed"}
    assert caplog.messages[0] == "a -> b: dialled back"


def test_ways_are_summed_up_the_best_one_first_and_words_of_others_are_left_out():
    assert (
        carried_in_words({"relayed": 1, "dialled back": 2, "direct": 3})
        == "3 direct, 2 dialled back, 1 relayed"
    )
    assert carried_in_words({"by pigeon": 7, "met": 0}) == ""
    assert {Carried.by(kind) for kind in LinkKind} == set(Carried) - {Carried.DIALLED_BACK}
