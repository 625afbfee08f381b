"""What a curious site finds out of recorded messages: exactly what the report says."""

import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from typing_extensions import override

from flaremesh.algorithms import configured
from flaremesh.links import Key, Payload
from flaremesh.links.inprocess import InProcessLink
from flaremesh.privacy.masks import masked
from flaremesh.privacy.observability import groups_of, messages_to
from flaremesh.privacy.report import lines, report
from flaremesh.privacy.transcript import Mask, Unknown, transcript
from flaremesh.runtime import simulate
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.simulate import Simulation
from flaremesh.topology.mesh import Mesh, build
from flaremesh.topology.schema import Privacy, Run, Topology

D = 32
WRONG = 0.1
"""Relative error from which on nobody would call a value reconstructed."""


def mesh_of(sites: int, **graph: object) -> Mesh:
    return build(
        Topology.model_validate(
            {
                "apiVersion": "flaremesh/v1",
                "name": "curious",
                "server": {"host": "localhost", "org": "hub"},
                "admins": [{"email": "lead@hub.example", "org": "hub"}],
                "sites": [{"name": f"s{number:02}", "org": "org"} for number in range(sites)],
                "graph": graph,
                "weights": "metropolis",
                "run": {"algorithm": "consensus", "iterations": 1, "problem": {"path": "paced.Paced"}},
            }
        )
    )


GRAPHS = {
    "ring of 4": mesh_of(4, kind="ring"),
    "ring of 8": mesh_of(8, kind="ring"),
    "ring of 16": mesh_of(16, kind="ring"),
    "star": mesh_of(6, kind="star"),
    "grid": mesh_of(9, kind="grid"),
    "torus": mesh_of(16, kind="torus"),
    "3-regular": mesh_of(16, kind="random-regular", degree=3),
    "complete": mesh_of(6, kind="complete"),
}


def run_of(algorithm: str, **fields: object) -> Run:
    return Run(algorithm=algorithm, iterations=40, problem={"path": "flaremesh.problems.Private"}, **fields)


class Values:
    """Each site's own value and its own gradients, float32."""

    def __init__(self, site, own_start: bool):
        self._drawn = torch.Generator().manual_seed(100 + site.index)
        self.value = self._random()
        self.gradients: list[torch.Tensor] = []
        self._own_start = own_start

    def _random(self):
        return torch.randn(D, generator=self._drawn)

    def initial(self):
        return self.value.clone() if self._own_start else torch.zeros(D)

    def loss_and_gradient(self, x):
        self.gradients.append(self._random())
        return torch.tensor(0.0), self.gradients[-1].clone()

    def evaluate(self, x):
        return {"mean": float(x.mean())}

    def buffers(self):
        return None

    def state(self, x):
        return {"x": x}


@pytest.fixture
def recorded(monkeypatch):
    """The bytes of all messages: by exchange, sender and receiver."""
    heard: dict[tuple[int, int], dict[tuple[str, str], bytes]] = defaultdict(dict)

    class Recorded(InProcessLink):
        @override
        def send(self, peer: str, key: Key, buffers: Sequence[Payload]) -> None:
            heard[key.iteration, key.stage][key.sender, peer] = b"".join(map(bytes, buffers))
            super().send(peer, key, buffers)

    monkeypatch.setattr(simulate, "InProcessLink", Recorded)
    return heard


def played(recorded, run, mesh, exchanges):
    """Run the sites in this process; returns their problems and their messages, (vectors, d) each."""
    problems = {}

    def problem(site):
        problems[site.name] = Values(site, run.algorithm == "consensus")
        return problems[site.name]

    algorithm = configured(run)
    stages = len(algorithm.exchanges)
    options = RunOptions(
        -(-exchanges // stages), evaluate_every=1000, privacy=Privacy(masked_start=run.privacy.masked_start)
    )
    Simulation(mesh.schedules, algorithm, problem, options).run()
    told = [recorded[exchange // stages, exchange % stages] for exchange in range(exchanges)]
    sent = [
        {
            sender: torch.from_numpy(np.frombuffer(heard, np.float32).reshape(-1, D).astype(float))
            for (sender, _), heard in exchange.items()
        }
        for exchange in told
    ]
    return problems, sent


def truth(unknown, problems):
    """What is private, (d,)."""
    own = problems[unknown.site]
    return own.gradients[unknown.number] if own.gradients else own.value


def reconstructed(told, sent, problems, curious, unknowns, summed):
    """The best estimates of unknowns from what a site got, and from what it knows: relative errors."""
    rows, seen = [], []
    for exchange, messages in enumerate(sent):
        hood = told.hood(curious, exchange)
        groups = groups_of(told, curious, exchange, [curious]) if summed else None
        rows += [row for found in messages_to(hood, told.sent[exchange], [curious], groups) for row in found]
        seen += [row for found in messages_to(hood, messages, [curious], groups) for row in found]
    functions, values = torch.stack(rows), torch.stack(seen)
    own = torch.tensor([known.is_known_to([curious]) for known in told.unknowns])
    mine = [
        truth(known, problems)
        for known in told.unknowns
        if known.is_known_to([curious]) and isinstance(known, Unknown)
    ]
    if mine:
        values = values - functions[:, own] @ torch.stack(mine).double()
    lengths = functions.norm(dim=1, keepdim=True).clamp(min=1e-300)
    left, values_of, right = torch.linalg.svd(functions[:, ~own] / lengths, full_matrices=False)
    filtered = values_of / (values_of**2 + 2.0**-48)
    estimates = right.T @ (filtered[:, None] * (left.T @ (values / lengths)))
    others = [known for known in told.unknowns if not known.is_known_to([curious])]
    return {
        known: float((estimates[place] - truth(known, problems)).norm() / truth(known, problems).norm())
        for place, known in enumerate(others)
        if not isinstance(known, Mask) and known in unknowns
    }


@pytest.mark.parametrize("summed", [False, True], ids=["messages", "sums"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_a_curious_site_reconstructs_from_recorded_messages_whom_the_report_names_and_nobody_else(
    recorded, graph, summed
):
    mesh, run = GRAPHS[graph], run_of("consensus", privacy={"secure_aggregation": summed})
    found = report(run, mesh)
    named = {exposure.curious[0]: exposure.found for exposure in found.exposures}
    problems, sent = played(recorded, run, mesh, found.exchanges)
    told = transcript(configured(run), mesh.schedules, found.exchanges)
    for curious in mesh.sites[:4]:
        errors = reconstructed(told, sent, problems, curious, told.unknowns, summed)
        known = {each.unknown for each in named.get(curious, ())}
        assert {unknown for unknown, error in errors.items() if error < WRONG} == known


def test_each_site_of_the_ring_of_eight_has_the_values_of_all_others_after_four_exchanges(recorded):
    mesh, run = GRAPHS["ring of 8"], run_of("consensus")
    for exposure in report(run, mesh).exposures:
        assert {each.unknown.site for each in exposure.found} == set(mesh.sites) - {*exposure.curious}
        assert max(each.exchanges for each in exposure.found) == 4
    problems, sent = played(recorded, run, mesh, 4)
    told = transcript(configured(run), mesh.schedules, 4)
    errors = reconstructed(told, sent, problems, "s00", told.unknowns, summed=False)
    assert max(errors.values()) < 1e-4
    earlier = reconstructed(told, sent[:3], problems, "s00", told.unknowns, summed=False)
    assert earlier[Unknown("s04", 0)] > WRONG


@pytest.mark.parametrize(
    ("algorithm", "after"), [("gradient-tracking", 1), ("k-gt", 1), ("extra", 2), ("exact-diffusion", 1)]
)
def test_gradients_are_read_off_recorded_messages_where_the_report_says_so(recorded, algorithm, after):
    mesh = GRAPHS["ring of 8"]
    run = run_of(algorithm, stepsize=0.1, privacy={"masked_start": False})
    found = report(run, mesh)
    (exposure,) = [each for each in found.exposures if each.curious == ("s00",)]
    firsts = {each.unknown for each in exposure.found}
    assert {each.unknown.site for each in exposure.found if each.exchanges == after} == {"s01", "s07"}
    problems, sent = played(recorded, run, mesh, found.exchanges)
    told = transcript(configured(run), mesh.schedules, found.exchanges)
    errors = reconstructed(told, sent, problems, "s00", firsts, summed=False)
    assert max(errors.values()) < WRONG


def test_where_gradients_are_masked_at_the_start_no_single_site_reads_any_and_all_neighbours_do():
    mesh, run = GRAPHS["ring of 8"], run_of("gradient-tracking", stepsize=0.1)
    assert not report(run, mesh).exposures
    together = report(run, mesh, curious=2).exposures
    assert {exposure.curious: [each.unknown.site for each in exposure.found] for exposure in together} == {
        tuple(sorted(mesh.neighbors(site))): [site] for site in mesh.sites
    }


def test_the_hub_of_a_star_knows_every_leafs_mask():
    found = report(run_of("gradient-tracking", stepsize=0.1), GRAPHS["star"])
    (hub,) = found.exposures
    assert hub.curious == ("s00",)
    assert len(hub.found) == 5


def test_what_is_no_more_than_a_bound_says_so_and_why():
    mesh = GRAPHS["ring of 4"]
    assert report(run_of("consensus"), mesh).bound is None
    assert "gtadam is not linear" in str(report(run_of("gtadam", stepsize=0.1), mesh).bound)
    assert "sends less" in str(report(run_of("consensus", wire="int8"), mesh).bound)


def test_the_report_names_what_to_change():
    unmasked = run_of("gradient-tracking", stepsize=0.1, privacy={"masked_start": False})
    told = [fact for name, fact in lines(report(unmasked, GRAPHS["complete"])) if name == "to change"]
    assert any("remove masked_start: false" in fact for fact in told)
    assert any("leaves 0 of 30 pairs" in fact for fact in told)


def test_where_a_run_has_a_budget_what_is_found_out_has_its_noise():
    budget = {"epsilon": 8, "delta": 1e-5, "clip": 1.0, "masked_start": False}
    run = run_of("gradient-tracking", stepsize=0.1, privacy=budget, on_loss="fail")
    told = dict(lines(report(run, GRAPHS["complete"])))
    assert told["private"].endswith("with the noise of the budget")
    assert "a budget" not in told["to change"]


def test_64_sites_are_looked_at_within_10_seconds():
    mesh = mesh_of(64, kind="random-regular", degree=4)
    started = time.process_time()  # of this process: others may keep it waiting
    found = report(run_of("gradient-tracking", stepsize=0.1), mesh)
    assert time.process_time() - started < 10
    assert found.coalitions == 64


def test_masks_of_a_run_are_those_that_the_report_looks_at():
    run = run_of("gradient-tracking", stepsize=0.1)
    algorithm = configured(run)
    told = transcript(algorithm, GRAPHS["ring of 4"].schedules, 2, masked(algorithm, run.privacy))
    assert sum(isinstance(known, Mask) for known in told.unknowns) == 4
