"""Whole runs in which each site learns sums alone: as plain ones, but for what neighbours see."""

import networkx as nx
import pytest
import torch

from flaremesh.algorithms import create
from flaremesh.gossip import GossipError
from flaremesh.gossip.aggregation import AggregationError
from flaremesh.links import PeerTimeout
from flaremesh.problems.digits import Digits
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.simulate import Simulation
from flaremesh.topology.neighborhood import neighborhoods
from flaremesh.topology.weights import by_rule

AGGREGATED = {"secure_aggregation": True}


def schedules(graph):
    matrix = by_rule(nx.to_numpy_array(graph), "metropolis")
    return {
        site: [hood] for site, hood in neighborhoods([f"site{i}" for i in range(len(graph))], matrix).items()
    }


FOUR = schedules(nx.complete_graph(4))
WHEEL = schedules(nx.wheel_graph(6))


def simulated(hoods, algorithm, problem, iterations, privacy=AGGREGATED, **options):
    run = Simulation(hoods, algorithm, problem, RunOptions(iterations, privacy=privacy, **options), seed=3)
    run.run()
    return run


class Line:
    """f(x) = ½‖x − b_i‖² with b_i far from each other.

    Args:
        site: the site.
        dtype: of the model.
    """

    def __init__(self, site, dtype):
        generator = torch.Generator().manual_seed(site.index)
        self._minimiser = 100 * torch.randn(50, generator=generator, dtype=torch.float64).to(dtype)
        self._curvature = 1.0 + site.index / 4

    def initial(self):
        return torch.zeros_like(self._minimiser)

    def loss_and_gradient(self, x):
        difference = x - self._minimiser
        return 0.5 * self._curvature * difference.dot(difference), self._curvature * difference

    def evaluate(self, x):
        return {}

    def buffers(self):
        return None

    def state(self, x):
        return {"x": x}


def solution(sites):
    curvatures = [1.0 + index / 4 for index in range(sites)]
    minimisers = [
        100 * torch.randn(50, generator=torch.Generator().manual_seed(index), dtype=torch.float64)
        for index in range(sites)
    ]
    return sum(c * b for c, b in zip(curvatures, minimisers, strict=True)) / sum(curvatures)


@pytest.mark.parametrize(
    ("name", "hoods", "stepsize"),
    [
        ("gradient-tracking", WHEEL, 0.1),
        ("gradient-tracking-atc", FOUR, 0.3),
        ("exact-diffusion", FOUR, 0.3),
        ("push-pull", FOUR, 0.3),
    ],
)
def test_a_run_leads_to_the_minimiser_to_all_digits_of_float64(name, hoods, stepsize):
    run = simulated(
        hoods,
        create(name, stepsize=stepsize),
        lambda site: Line(site, torch.float64),
        250,
        evaluate_every=250,
    )
    errors = [float((site.estimate - solution(len(hoods))).abs().max()) for site in run.sites.values()]
    assert max(errors) < 1e-10


def test_a_model_of_float32_is_as_near_the_minimiser_as_without():
    def error(privacy):
        run = simulated(
            WHEEL,
            create("gradient-tracking", stepsize=0.1),
            lambda site: Line(site, torch.float32),
            150,
            privacy,
            evaluate_every=150,
        )
        return max(float((site.estimate - solution(6)).abs().max()) for site in run.sites.values())

    assert error(AGGREGATED) < 2 * error({}) < 1e-3


def test_masks_change_no_bit_of_a_run():
    runs = [simulated(FOUR, create("dgd", stepsize=0.5), Digits, 5) for _ in range(2)]
    for one, other in zip(*(run.sites.values() for run in runs), strict=True):
        assert torch.equal(one.estimate, other.estimate)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"wire": "int8"}, "one grid, which wire: int8 does not send; write wire: exact, or float32"),
        ({"mixing": {"clip": 1.0}}, "clipping measures .*; remove clip"),
        ({"asynchronous": True}, "asynchronous sites do not wait; remove asynchronous"),
    ],
)
def test_what_needs_single_messages_is_refused_by_name(options, words):
    with pytest.raises(GossipError, match=words):
        simulated(FOUR, create("local-dgd", stepsize=0.1), Digits, 2, **options)


def test_where_neighbours_are_not_joined_a_site_refuses_to_send():
    with pytest.raises(AggregationError, match="nothing would hide what site0 sends to site1 and site3"):
        simulated(schedules(nx.cycle_graph(4)), create("dgd", stepsize=0.1), Digits, 2)


def test_statistics_of_a_model_travel_with_the_first_exchange():
    class Counting(Line):
        def __init__(self, site):
            super().__init__(site, torch.float32)
            self.statistics = torch.tensor([0.0, 7.0])

        def buffers(self):
            return self.statistics

        def loss_and_gradient(self, x):
            self.statistics[0] += 1
            return super().loss_and_gradient(x)

    plain, hidden = (
        simulated(FOUR, create("dgd", stepsize=0.1), Counting, 5, privacy) for privacy in ({}, AGGREGATED)
    )
    for one, other in zip(plain.sites.values(), hidden.sites.values(), strict=True):
        torch.testing.assert_close(one.estimate, other.estimate, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(one.problem.buffers(), other.problem.buffers())


def test_a_site_that_is_gone_is_named_by_those_that_wait_and_leaves_no_sum():
    run = Simulation(FOUR, create("dgd", stepsize=0.1), Digits, RunOptions(5, 0.2, privacy=AGGREGATED))
    steps = run.steps()
    next(steps)
    before = run.sites["site0"].estimate
    turns = {name: site.turns(1) for name, site in run.sites.items()}
    for _ in range(2):  # all tell how great their vectors are, and on which grids they want the others'
        for turn in turns.values():
            next(turn)
    for name in ("site0", "site1", "site2"):  # these send, and the fourth is gone
        next(turns[name])
    with pytest.raises(PeerTimeout, match="site3"):
        next(turns["site0"])
    assert torch.equal(run.sites["site0"].estimate, before)
