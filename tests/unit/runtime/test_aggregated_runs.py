"""Whole runs in which each site learns sums alone: as plain ones, but for what neighbours see."""

import networkx as nx
import pytest
import torch

from flaremesh.algorithms import create
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


@pytest.mark.parametrize("hoods", [FOUR, WHEEL], ids=["complete", "wheel"])
@pytest.mark.parametrize(
    "name", ["gradient-tracking", "gradient-tracking-atc", "exact-diffusion", "extra", "push-pull", "k-gt"]
)
def test_a_run_leads_to_the_minimiser_to_all_digits_of_float64(name, hoods):
    run = simulated(
        hoods, create(name, stepsize=0.1), lambda site: Line(site, torch.float64), 400, evaluate_every=400
    )
    errors = [float((site.estimate - solution(len(hoods))).abs().max()) for site in run.sites.values()]
    assert max(errors) < 1e-11 * 100


def test_a_model_of_float32_is_as_near_the_minimiser_as_without():
    def error(privacy):
        run = simulated(
            WHEEL,
            create("gradient-tracking", stepsize=0.1),
            lambda site: Line(site, torch.float32),
            400,
            privacy,
            evaluate_every=400,
        )
        return max(float((site.estimate - solution(6)).abs().max()) for site in run.sites.values())

    assert error(AGGREGATED) < 2 * error({}) < 1e-3


def test_masks_change_no_bit_of_a_run():
    runs = [simulated(FOUR, create("dgd", stepsize=0.5), Digits, 5) for _ in range(2)]
    for one, other in zip(*(run.sites.values() for run in runs), strict=True):
        assert torch.equal(one.estimate, other.estimate)
