"""Whole runs with a privacy budget."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from flaremesh.algorithms import create
from flaremesh.privacy.accounting import PrivacyError
from flaremesh.problems.module import Batches, ModuleProblem
from flaremesh.problems.protocol import SiteContext
from flaremesh.runtime.checkpoint import Checkpoints
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.simulate import Simulation
from flaremesh.topology.neighborhood import neighborhoods

SITES = [f"site-{number}" for number in range(8)]
RING = np.roll(np.eye(8), 1, axis=1) / 3 + np.roll(np.eye(8), -1, axis=1) / 3 + np.eye(8) / 3
PRIVACY = {"epsilon": 8, "delta": 1e-5, "clip": 1.0}


class Flat:
    """f(x) = 0: what moves is noise."""

    def __init__(self, site):
        self.seen = []

    def initial(self):
        return torch.zeros(2000, dtype=torch.float64)

    def loss_and_gradient(self, x):
        self.seen.append(x.clone())
        return x.sum() * 0, x * 0

    def evaluate(self, x):
        return {"norm": float(x.norm())}

    def buffers(self):
        return None

    def state(self, x):
        return {"x": x}


class Steep(Flat):
    """A gradient much longer than the clipping norm, along the first coordinate."""

    def loss_and_gradient(self, x):
        gradient = torch.zeros_like(x)
        gradient[0] = 1e6
        return gradient.sum(), gradient


def simulation(algorithm="dgd-atc", problem=Flat, iterations=50, options=None, privacy=None, **said):
    hoods = neighborhoods(SITES, RING)
    made = RunOptions(iterations, privacy=PRIVACY | (privacy or {}), **(options or {}))
    schedules = {site: [hood] for site, hood in hoods.items()}
    return Simulation(schedules, create(algorithm, stepsize=0.1, **said), problem, made)


def spent(run):
    return [site.noised.epsilon for site in run.sites.values()]


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [("dgd", {}), ("dgd-atc", {}), ("gradient-tracking", {}), ("k-gt", {"local_steps": 3}), ("nids", {})],
)
def test_a_run_whose_iterations_all_fit_has_spent_its_budget_at_the_end(algorithm, said):
    run = simulation(algorithm, **said)
    run.run()
    assert (run.ended, run.snapshots[-1].iteration) == (None, 50)
    assert spent(run) == pytest.approx([8] * 8, rel=1e-9)


@pytest.mark.parametrize("noise", ["independent", "correlated"])
def test_a_run_ends_at_the_iteration_at_which_its_budget_is_spent_and_says_so(noise):
    run = simulation(iterations=1000, privacy={"sigma": 4.0, "noise": noise})
    fits = run.sites["site-3"].noised.budget.iterations
    assert 1 < fits < 1000
    run.run()
    assert run.snapshots[-1].iteration == fits
    assert run.ending == "budget"
    assert run.ended == f"every site has spent its privacy budget, ε 8 (δ 1e-05), after iteration {fits}"
    budget = run.sites["site-3"].noised.budget
    assert 8 * (1 - 2 / fits) < spent(run)[3] <= 8 < budget.spent(budget.most + 1)


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [("dgd", {}), ("gradient-tracking", {}), ("k-gt", {"local_steps": 3, "outer": 0.5})],
)
@pytest.mark.parametrize("noise", ["independent", "correlated"])
def test_the_mean_model_is_as_far_off_as_the_plan_predicts(algorithm, said, noise):
    run = simulation(algorithm, privacy={"noise": noise}, **said)
    run.run()
    budget = run.sites["site-0"].noised.budget
    predicted = budget.queries.step * budget.noise / math.sqrt(8) * math.sqrt(budget.most)
    assert float(run.mean.std()) == pytest.approx(predicted, rel=0.1)


def test_a_gradient_counts_no_more_than_the_clipping_norm():
    run = simulation("dgd", Steep, privacy={"epsilon": 1000.0})
    run.run()
    budget = run.sites["site-0"].noised.budget
    deviation = 0.1 * budget.noise * math.sqrt(50 / 8)
    assert float(run.mean[0]) == pytest.approx(-0.1 * 50, abs=5 * deviation)
    assert deviation < 1


def test_no_message_holds_anything_of_the_loss():
    run = simulation()
    run.run()
    assert {record.loss for history in run.histories.values() for record in history.iterations} == {None}


def test_a_run_with_a_budget_can_be_repeated_in_the_simulator():
    runs = [simulation(privacy={"noise": "correlated"}) for _ in range(2)]
    for run in runs:
        run.run()
    assert torch.equal(runs[0].mean, runs[1].mean)


def test_without_a_budget_a_site_asks_its_problem_itself():
    hoods = neighborhoods(SITES, RING)
    schedules = {site: [hood] for site, hood in hoods.items()}
    run = Simulation(schedules, create("dgd", stepsize=0.1), Flat, RunOptions(3))
    site = run.sites["site-0"]
    assert site.noised is None
    assert site._objective is site.problem


class Trained(Flat):
    trains = True

    def train(self, x, steps, stepsize, shift):
        raise AssertionError


class Buffered(Flat):
    def __init__(self, site):
        super().__init__(site)
        self._buffers = torch.zeros(3)

    def buffers(self):
        return self._buffers


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"problem": Trained}, "the problem of site-0 takes its steps itself"),
        ({"problem": Buffered}, "has buffers, such as BatchNorm's statistics"),
        ({"privacy": {"examples": 10}}, "the problem of site-0 does not give"),
        ({"options": {"asynchronous": True}, "privacy": {"noise": "correlated"}}, "write noise: independent"),
        ({"algorithm": "gradient-tracking", "privacy": {"sigma": 0.01}}, "write a greater sigma"),
    ],
)
def test_a_run_that_could_not_keep_its_budget_is_refused_with_what_to_do(said, words):
    with pytest.raises(PrivacyError, match=words):
        simulation(**said)


def test_a_run_with_a_budget_is_not_resumed(tmp_path):
    hoods = neighborhoods(SITES, RING)
    schedules = {site: [hood] for site, hood in hoods.items()}
    places = {site: Checkpoints(tmp_path / site, site) for site in SITES}
    with pytest.raises(PrivacyError, match="write on_loss: fail"):
        Simulation(
            schedules, create("dgd", stepsize=0.1), Flat, RunOptions(3, privacy=PRIVACY), checkpoints=places
        )


# gradients of examples


INPUTS = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = INPUTS @ torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TARGETS[7] = 1e4  # one example with a gradient far longer than the others'
CONTEXT = SiteContext("site-0", 0, 8, 0)


def network(*parts):
    return lambda: nn.Sequential(*(parts or (nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)))).double()


def module_problem(train=None, model=None, **said):
    return ModuleProblem(
        CONTEXT, model or network(), nn.functional.mse_loss, train or Batches(INPUTS, TARGETS), **said
    )


def test_a_modules_gradient_is_the_mean_of_its_examples_gradients_each_clipped():
    problem = module_problem()
    x = problem.initial()
    each = torch.stack(
        [
            module_problem(Batches(INPUTS[i : i + 1], TARGETS[i : i + 1])).loss_and_gradient(x)[1]
            for i in range(40)
        ]
    )
    clip = float(each.norm(dim=1).median())
    shares = (clip / each.norm(dim=1)).clamp(max=1)
    assert 15 < int((shares < 1).sum()) < 25
    expected = (each * shares[:, None]).mean(dim=0)
    for _ in range(2):
        assert torch.allclose(problem.clipped_gradient(x, clip, 1), expected, atol=1e-12)
    assert torch.allclose(problem.clipped_gradient(x, clip, 80), expected / 2, atol=1e-12)
    whole = module_problem().loss_and_gradient(x)[1]
    assert torch.allclose(problem.clipped_gradient(x, 1e9, 1), whole, atol=1e-9)


def test_no_example_moves_the_gradient_further_than_twice_its_share():
    x = module_problem().initial()
    other = TARGETS.clone()
    other[7] = -1e4
    one, two = (
        module_problem(Batches(INPUTS, targets)).clipped_gradient(x, 0.5, 1) for targets in (TARGETS, other)
    )
    assert 0.5 / 40 < float((one - two).norm()) <= 2 * 0.5 / 40 * (1 + 1e-12)


def test_an_example_without_a_finite_gradient_counts_as_zero():
    broken = TARGETS.clone()
    broken[7] = math.inf
    x = module_problem().initial()
    found = module_problem(Batches(INPUTS, broken)).clipped_gradient(x, 1.0, 40)
    without = [i for i in range(40) if i != 7]
    expected = module_problem(Batches(INPUTS[without], TARGETS[without])).clipped_gradient(x, 1.0, 40)
    assert torch.allclose(found, expected, atol=1e-12)


def test_a_model_that_mixes_examples_is_refused_by_name():
    problem = module_problem(model=network(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="the model gives no gradient of each example: BatchNorm"):
        problem.clipped_gradient(problem.initial(), 1.0, 1)


DATA = TensorDataset(INPUTS, TARGETS)


@pytest.mark.parametrize(
    ("train", "said", "expected"),
    [
        (Batches(INPUTS, TARGETS, 10), {}, True),
        (DataLoader(DATA, 10, shuffle=True), {}, True),
        (DataLoader(DATA, 10, sampler=RandomSampler(DATA, replacement=True)), {}, False),
        ([(INPUTS, TARGETS)], {}, False),
        (Batches(INPUTS, TARGETS, 10), {"accumulate": 2}, False),
        (Batches(INPUTS, TARGETS, 10), {"clip_norm": 1.0}, False),
    ],
)
def test_only_batches_in_which_no_example_comes_twice_have_examples_as_units(train, said, expected):
    assert module_problem(train, **said).clips_examples is expected


class Learns(ModuleProblem):
    def __init__(self, site):
        data = torch.randn(100, 5, generator=site.generator())
        labels = (data.sum(dim=1) > 0).long()
        super().__init__(
            site,
            lambda: nn.Linear(5, 2),
            nn.functional.cross_entropy,
            Batches(data, labels),
            Batches(data, labels),
        )


def test_a_module_learns_with_examples_as_units():
    run = simulation("dgd-atc", Learns, iterations=100, privacy={"examples": 100})
    run.run()
    least, _ = run.metric_ranges()["accuracy"]
    assert least > 0.85
    assert spent(run) == pytest.approx([8] * 8, rel=1e-9)
