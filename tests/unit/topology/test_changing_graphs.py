"""Graphs that bring their weights, and graphs that change: what they contract by, and schedules in files."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from topology_file import with_sections

from flaremesh.algorithms import create
from flaremesh.problems.consensus import Consensus
from flaremesh.provision.plan import UnsoundRun, check, plan
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.resumption import resumption_of
from flaremesh.runtime.simulate import Simulation
from flaremesh.topology.analysis import analyse, period
from flaremesh.topology.graphs import GraphError, phases
from flaremesh.topology.load import load
from flaremesh.topology.mesh import Mesh, build
from flaremesh.topology.schema import BaseGraph, Topology
from flaremesh.topology.weights import metropolis, mixing_matrix, push_sum


def topology(graph: dict[str, Any], n: int, run: dict[str, Any] | None = None, **sections: Any) -> Topology:
    consensus = {
        "algorithm": "consensus",
        "iterations": 10,
        "problem": {"path": "flaremesh.problems.consensus.Consensus"},
    }
    return Topology.model_validate(
        {
            "apiVersion": "flaremesh/v1",
            "name": "mesh",
            "server": {"host": "localhost", "org": "org"},
            "admins": [{"email": "admin@example.org", "org": "org"}],
            "sites": [{"name": f"s{i}", "org": "org"} for i in range(n)],
            "graph": graph,
            "run": consensus | (run or {}),
        }
        | sections
    )


def mesh(graph: dict[str, Any], n: int, **sections: Any) -> Mesh:
    return build(topology(graph, n, **sections))


def distances(made: Mesh, iterations: int) -> list[float]:
    """How far sites are from agreeing, before and after each iteration of a simulated consensus."""
    run = Simulation(made.schedules, create("consensus"), Consensus, RunOptions(iterations=iterations))
    run.run()
    return [snapshot.consensus_distance for snapshot in run.snapshots]


# Base-(k+1)


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_the_base_graph_is_exact_after_one_cycle_of_few_phases_for_any_number_of_sites(degree: int) -> None:
    for n in range(2, 34):
        made = mesh({"kind": "base-graph", "degree": degree}, n)

        np.testing.assert_allclose(period(made.matrices), np.full((n, n), 1 / n), atol=1e-14)
        assert made.properties.contraction == 0
        assert made.properties.symmetric
        assert made.properties.doubly_stochastic
        assert len(made.matrices) <= 2 * math.log(n, degree + 1) + 2 + 1e-9
        assert max((w > 0).sum(axis=1).max() for w in made.matrices) <= degree + 1


def test_the_base_graph_over_six_sites_takes_four_phases_as_in_the_paper() -> None:
    assert len(mesh({"kind": "base-graph"}, 6).matrices) == 4


def test_six_sites_agree_after_a_cycle_of_the_base_graph_and_not_of_the_one_peer_exponential_graph() -> None:
    base = mesh({"kind": "base-graph"}, 6)
    exponential = mesh({"kind": "one-peer-exponential"}, 6, weights="uniform")

    start, *_, before, after = distances(base, 4)
    assert after < 1e-14 * start
    assert before > 1e-3 * start
    assert distances(exponential, 3)[-1] > 1e-3 * start
    assert exponential.properties.contraction > 0.5


def test_the_base_graph_is_not_exact_with_the_weights_of_a_rule() -> None:
    graphs = phases(BaseGraph(kind="base-graph"), [f"s{i}" for i in range(6)])

    assert analyse([mixing_matrix(graph, "explicit") for graph in graphs]).contraction == 0
    assert analyse([mixing_matrix(graph, "metropolis") for graph in graphs]).contraction > 0.1


@pytest.mark.parametrize("kind", ["base-graph", "equitopo", "one-peer-equitopo", "random-peers"])
def test_no_rule_takes_the_place_of_the_weights_that_a_graph_brings_along(kind: str) -> None:
    with pytest.raises(
        GraphError, match=f"{kind} has weights of its own, not metropolis ones; leave weights"
    ):
        mesh({"kind": kind}, 6, weights="metropolis")

    assert mesh({"kind": kind}, 6, weights="explicit").properties.doubly_stochastic


# EquiTopo


@pytest.mark.parametrize("directed", [True, False])
def test_equitopo_with_every_hop_is_exact_in_one_iteration(directed: bool) -> None:
    made = mesh({"kind": "equitopo", "hops": 7, "directed": directed}, 8)

    np.testing.assert_allclose(made.matrices[0], np.full((8, 8), 1 / 8))
    assert made.properties.contraction == 0


@pytest.mark.parametrize("seed", range(3))
def test_equitopo_contracts_by_a_constant_whatever_the_number_of_sites(seed: int) -> None:
    for n in (32, 128):
        one_way = mesh({"kind": "equitopo", "directed": True, "seed": seed}, n)
        both_ways = mesh({"kind": "equitopo", "seed": seed}, n)

        assert {degree for _, degree in one_way.graph.in_degree} == {math.ceil(2 * math.log(n))}
        assert one_way.properties.doubly_stochastic
        assert both_ways.properties.symmetric
        assert max(one_way.properties.contraction, both_ways.properties.contraction) < 0.75
    assert mesh({"kind": "ring"}, 128).properties.contraction > 0.99


def test_one_peer_equitopo_takes_the_hops_of_equitopo_in_turn() -> None:
    turns = mesh({"kind": "one-peer-equitopo", "hops": 4, "seed": 2}, 9)
    at_once = mesh({"kind": "equitopo", "hops": 4, "seed": 2, "directed": True}, 9)

    assert len(turns.matrices) == 4
    assert {int((w > 0).sum(axis=1).max()) for w in turns.matrices} == {2}
    # (1 − η)I + ηA of each hop, with η = 1/2
    np.testing.assert_allclose(np.mean(turns.matrices, axis=0), (np.eye(9) + at_once.matrices[0]) / 2)


# random peers


def test_each_site_hears_and_is_heard_by_as_many_random_peers_in_each_phase() -> None:
    made = mesh({"kind": "random-peers", "peers": 3, "phases": 20}, 10)

    assert len(made.matrices) == 20
    for w in made.matrices:
        assert set((w > 0).sum(axis=0)) == set((w > 0).sum(axis=1)) == {4}
        np.testing.assert_allclose(w[w > 0], 1 / 4)


def test_the_seed_alone_decides_who_hears_whom_and_more_phases_begin_with_the_same() -> None:
    graph = {"kind": "random-peers", "phases": 5, "seed": 3}
    few = mesh(graph, 12).matrices

    np.testing.assert_array_equal(mesh(graph | {"phases": 9}, 12).matrices[:5], few)
    assert not np.array_equal(mesh(graph | {"seed": 4}, 12).matrices, few)


def test_random_peers_contract_in_the_mean_as_the_theory_of_epidemic_learning_says() -> None:
    n, peers = 12, 2
    made = mesh({"kind": "random-peers", "peers": peers, "phases": 800}, n)
    beta = (1 - peers / (n - 1)) / (peers + 1)

    squared = np.mean([w.T @ w - 1 / n for w in made.matrices], axis=0)

    # E WᵀW − J is β on all deviations from the mean, were there infinitely many phases
    np.testing.assert_allclose(np.linalg.eigvalsh(squared)[1:], beta, rtol=0.25)


# what a cycle contracts by


@pytest.mark.parametrize("rule", [metropolis, push_sum])
def test_a_long_cycle_is_not_taken_for_exact_because_rounding_ends_its_product(rule: Any) -> None:
    path = np.eye(5, k=1, dtype=bool) | np.eye(5, k=-1, dtype=bool)
    w = rule(path)

    assert analyse([w] * 900).contraction == pytest.approx(analyse([w]).contraction, rel=1e-9)


def test_the_plan_says_what_a_cycle_contracts_by() -> None:
    drawn = plan(topology({"kind": "random-peers", "phases": 30}, 7)).mixing
    base = plan(topology({"kind": "base-graph"}, 7)).mixing

    assert 0 < drawn.cycle_contraction == pytest.approx(drawn.predicted_contraction**30)
    assert drawn.cycle_contraction < 1e-3
    assert (base.cycle_contraction, base.iterations_to_a_thousandth) == (0, 5)


@pytest.mark.parametrize(
    "run",
    [{"algorithm": "led", "stepsize": 0.1, "local_steps": 2}, {"algorithm": "consensus", "wire": "int8"}],
)
def test_what_needs_a_graph_that_stays_is_refused_on_one_that_changes(run: dict[str, Any]) -> None:
    with pytest.raises(UnsoundRun, match=r"take turns|change from one iteration to the next"):
        check(topology({"kind": "base-graph"}, 6, run))
    check(topology({"kind": "equitopo"}, 6, run))


def test_a_run_that_broke_off_within_a_cycle_goes_on_with_the_next_phase() -> None:
    told = topology({"kind": "random-peers", "phases": 4}, 5, {"iterations": 6})

    resumed = resumption_of(told.run, build(told))

    assert (resumed.broken_after, resumed.difference) == (3, None)


# schedules in files


def test_a_schedule_in_a_file_and_the_same_phases_in_place_give_one_mesh(tmp_path: Path) -> None:
    file = tmp_path / "topology.yaml"
    (tmp_path / "schedule.csv").write_text(
        "from,to,weight\nphase,,\nheidelberg,bonn,0.5\nphase,,  # a heavier pair\nbonn,aachen,0.6\n"
        "phase\nheidelberg,bonn,0.4\n"
    )
    file.write_text(with_sections("graph: {file: schedule.csv}\nweights: explicit"))
    from_file = load(file)
    file.write_text(
        with_sections(
            """
            graph:
              edges:
              - {from: heidelberg, to: bonn, weight: 0.5}
              - {from: bonn, to: aachen, weight: 0.6, phase: 2}
              - {from: heidelberg, to: bonn, weight: 0.4, phase: 3}
            weights: explicit
            """
        )
    )

    assert from_file == load(file)
    assert build(from_file).matrices[1].tolist() == [[1, 0, 0], [0, 0.4, 0.6], [0, 0.6, 0.4]]


def test_edges_before_the_first_heading_are_the_first_phase(tmp_path: Path) -> None:
    file = tmp_path / "topology.yaml"
    (tmp_path / "edges.txt").write_text("heidelberg bonn\nphase\nbonn aachen\n")
    file.write_text(with_sections("graph: {file: edges.txt}"))

    made = build(load(file))

    assert [hood.out for hood in made.schedules["bonn"]] == [("heidelberg",), ("aachen",)]
    assert made.neighbors("bonn") == {"heidelberg", "aachen"}


def test_a_schedule_in_which_one_of_three_rests_in_turn_can_be_exact(tmp_path: Path) -> None:
    file = tmp_path / "topology.yaml"
    (tmp_path / "edges.txt").write_text(
        f"phase\nheidelberg bonn 0.5\nphase\nbonn aachen {2 / 3}\nphase\nheidelberg bonn 0.5\n"
    )
    file.write_text(with_sections("graph: {file: edges.txt}\nweights: explicit"))

    made = build(load(file))

    assert made.properties.contraction == 0
    assert distances(made, 3)[-1] < 1e-14 * distances(made, 3)[0]
