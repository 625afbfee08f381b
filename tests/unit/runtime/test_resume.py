"""A run that goes on from checkpoints is, bit for bit, the one that nobody disturbed."""

import random
from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset, WeightedRandomSampler

from flaremesh.algorithms import Weights, algorithm_class, create, names
from flaremesh.problems.consensus import Consensus
from flaremesh.problems.digits import Digits
from flaremesh.problems.module import Batches, ModuleProblem
from flaremesh.runtime.checkpoint import Checkpoints
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.simulate import Simulation
from flaremesh.topology.neighborhood import neighborhoods

RING = np.array([[2, 1, 0, 1], [1, 2, 1, 0], [0, 1, 2, 1], [1, 0, 1, 2]]) / 4
DIRECTED = np.array([[1, 0, 0, 1], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1]]) / [3, 2, 2, 2]
TURNS = [(np.eye(4) + np.roll(np.eye(4), shift, axis=0)) / 2 for shift in (1, 2)]
NAMES = [f"site{i}" for i in range(4)]
WIRES = ["exact", "float32", "float16", "bfloat16", "int8", {"encoding": "top-k", "fraction": 0.2}]


def created(name):
    known = {field.name for field in fields(algorithm_class(name))}
    return create(name, **({"stepsize": 0.01} if "stepsize" in known else {}))


def simulation(name, problem, matrices, iterations=9, **arguments):
    options = {
        k: arguments.pop(k) for k in ("wire", "mixing", "mix_buffers", "evaluate_every") if k in arguments
    }
    phases = [neighborhoods(NAMES, matrix) for matrix in matrices]
    return Simulation(
        {site: [phase[site] for phase in phases] for site in NAMES},
        created(name),
        problem,
        RunOptions(iterations, checkpoint_every=arguments.pop("every", None), **options),
        seed=7,
        **arguments,
    )


def timeless(history):
    iterations = [
        replace(
            record,
            seconds=0.0,
            wait_seconds=0.0,
            gradient_seconds=0.0,
            overlap_seconds=0.0,
            send_seconds=0.0,
            mix_seconds=0.0,
        )
        for record in history.iterations
    ]
    return iterations, [replace(record, seconds=0.0) for record in history.evaluations]


def require_the_same(ours, theirs):
    for site, run in ours.sites.items():
        other = theirs.sites[site]
        assert timeless(ours.histories[site]) == timeless(theirs.histories[site])
        assert type(run.state) is type(other.state)
        for mine, yours in zip(run.state, other.state, strict=True):
            assert mine.dtype == yours.dtype
            assert torch.equal(mine, yours)
        model, expected = run.problem.state(run.estimate), other.problem.state(other.estimate)
        assert model.keys() == expected.keys()
        assert all(torch.equal(model[name], expected[name]) for name in model)


def resumed(folder, name, problem, matrices, at=5, **options):
    """The run that is broken off after some iterations more than its last checkpoint, and goes on from it."""
    places = {site: Checkpoints(folder / site, site) for site in NAMES}
    first = simulation(name, problem, matrices, every=at, checkpoints=places, **options)
    for snapshot in first.steps():
        if snapshot.iteration == at + 2:
            break
    for run in first.sites.values():
        run.checkpointing.wait()
        assert run.checkpointing.failure is None
    torch.rand(3)  # what another process would find in its generators
    again = {site: Checkpoints(folder / site, site) for site in NAMES}
    assert {site: places.iterations() for site, places in again.items()} == {site: [at] for site in NAMES}
    second = simulation(
        name, problem, matrices, resume={site: again[site].read(at) for site in NAMES}, **options
    )
    second.run()
    return second


def require_exact_resumption(folder, name, problem, matrices=(RING,), at=5, **options):
    matrices = list(matrices)
    straight = simulation(name, problem, matrices, **options)
    straight.run()
    require_the_same(resumed(folder, name, problem, matrices, at, **options), straight)


def test_gradient_tracking_on_digits_goes_on_from_a_checkpoint_bit_for_bit(tmp_path):
    require_exact_resumption(tmp_path, "gradient-tracking", Digits)


class Regression(ModuleProblem):
    """A linear model of 32 numbers, on mini-batches in an order of the site's own; a pass has four."""

    def __init__(self, site, model=lambda: nn.Linear(15, 2), loader=None, test=()):
        self.inputs = torch.randn(14, 15, generator=torch.Generator().manual_seed(site.index))
        self.targets = self.inputs[:, :2] + site.index
        train = loader(site, TensorDataset(self.inputs, self.targets)) if loader else None
        super().__init__(
            site,
            model,
            mse_loss,
            train or Batches(self.inputs, self.targets, 4, site.generator()),
            test or Batches(self.inputs, self.targets),
            device="cpu",
        )


def graph_of(name):
    return DIRECTED if algorithm_class(name).weights is Weights.COLUMN_STOCHASTIC else RING


@pytest.mark.parametrize("wire", WIRES, ids=str)
@pytest.mark.parametrize("name", names())
def test_every_algorithm_goes_on_over_every_wire(name, wire, tmp_path):
    require_exact_resumption(tmp_path, name, Regression, [graph_of(name)], wire=wire)


@pytest.mark.parametrize("name", ["consensus", "push-sum"])
def test_values_are_averaged_on_after_a_break(name, tmp_path):
    require_exact_resumption(tmp_path, name, Consensus, [graph_of(name)])


@pytest.mark.parametrize("name", ["dgd-atc", "gradient-tracking", "gradient-tracking-atc"])
@pytest.mark.parametrize("at", [3, 4])
def test_a_graph_of_phases_goes_on_in_the_phase_that_is_due(name, at, tmp_path):
    require_exact_resumption(tmp_path, name, Regression, TURNS, at=at)


def normalised():
    """Statistics that are mixed, a count of batches that is not, and a constant."""
    return nn.Sequential(nn.Linear(15, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def dropping():
    return nn.Sequential(nn.Linear(15, 4), nn.Dropout(0.5), nn.Linear(4, 2))


@pytest.mark.parametrize("mix_buffers", [True, False])
@pytest.mark.parametrize("name", ["dgd", "dgd-atc", "gradient-tracking", "gradient-tracking-atc"])
@pytest.mark.parametrize("wire", ["exact", "int8"])
def test_statistics_of_batches_go_on(name, wire, mix_buffers, tmp_path):
    def problem(site):
        return Regression(site, normalised)

    require_exact_resumption(tmp_path, name, problem, wire=wire, mix_buffers=mix_buffers)


@pytest.mark.parametrize("wire", ["exact", "int8"])
@pytest.mark.parametrize("clip", ["auto", 0.01])
def test_clipped_mixing_goes_on(clip, wire, tmp_path):
    def problem(site):
        return Regression(site, normalised)

    require_exact_resumption(tmp_path, "dgd-atc", problem, wire=wire, mixing={"clip": clip})


class Noisy(Dataset):
    """Draws noise for each sample from Python's and NumPy's global generators and from one of its own."""

    def __init__(self, data, seed):
        self.data, self.random = data, np.random.default_rng(seed)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        inputs, targets = self.data[index]
        return inputs + random.random() + np.random.rand() + self.random.normal(), targets


LOADERS = {
    "shuffled by torch": lambda site, data: DataLoader(data, 4, shuffle=True),
    "shuffled by a generator": lambda site, data: DataLoader(
        data, 4, shuffle=True, generator=site.generator()
    ),
    "sampled by a generator": lambda site, data: DataLoader(
        data, 4, sampler=RandomSampler(data, replacement=True, generator=site.generator())
    ),
    "weighted": lambda site, data: DataLoader(
        data, 4, sampler=WeightedRandomSampler(torch.arange(14.0), 14, generator=site.generator())
    ),
    "in order": lambda site, data: DataLoader(data, 4),
    "with noise": lambda site, data: DataLoader(Noisy(data, site.own_seed), 4, shuffle=True),
    "a list": lambda site, data: [data[:5], data[5:]],
}


@pytest.mark.parametrize("at", [4, 5])
@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS.keys())
@pytest.mark.parametrize("name", ["dgd-atc", "gradient-tracking"])
def test_a_loader_goes_on_in_the_middle_of_its_pass_beside_dropout(name, loader, at, tmp_path):
    def problem(site):
        return Regression(site, dropping, loader)

    require_exact_resumption(tmp_path, name, problem, at=at)


def test_evaluations_go_on_drawing_test_batches(tmp_path):
    def problem(site):
        data = TensorDataset(torch.eye(15), torch.eye(15)[:, :2])
        draws = RandomSampler(data, num_samples=3, generator=site.generator())
        return Regression(site, test=DataLoader(data, 3, sampler=draws))

    require_exact_resumption(tmp_path, "gradient-tracking", problem, evaluate_every=1)


class Momentum(Consensus):
    """A user's own: noise from a generator of NumPy's, and a running mean of gradients."""

    def __init__(self, site):
        super().__init__(site, dimension=4)
        self.random = np.random.default_rng(site.own_seed)
        self.mean = torch.zeros(4, dtype=torch.float64)
        self.seen = Counter()

    def loss_and_gradient(self, x):
        loss, gradient = super().loss_and_gradient(x)
        self.mean.lerp_(gradient + torch.from_numpy(self.random.normal(size=4)), 0.1)
        self.seen[int(x[0] > 0)] += 1
        return loss, self.mean + self.seen.total()

    def snapshot(self):
        return {
            "noise": self.random.bit_generator.state,
            "mean": self.mean,
            "seen": self.seen,
            "nothing": [None, (1.5, np.float32(2))],
        }

    def restore(self, snapshot):
        self.random.bit_generator.state = snapshot["noise"]
        self.mean.copy_(snapshot["mean"])
        self.seen.update(snapshot["seen"])
        assert snapshot["nothing"] == [None, [1.5, 2.0]]


@pytest.mark.parametrize("name", ["dgd", "dgd-atc", "gradient-tracking"])
def test_a_problem_of_ones_own_goes_on_with_what_it_tells(name, tmp_path):
    require_exact_resumption(tmp_path, name, Momentum)


class Forgetful(Momentum):
    """Tells less than it must."""

    def snapshot(self):
        return super().snapshot() | {"seen": {}}


def test_a_problem_that_hides_a_counter_does_not_go_on_as_before(tmp_path):
    with pytest.raises(AssertionError):
        require_exact_resumption(tmp_path, "dgd", Forgetful)


def test_nothing_is_computed_again(tmp_path):
    """The gradients of both parts of a run are those of the undisturbed one, and so are its evaluations."""
    calls = Counter()

    class Counting(Regression):
        def loss_and_gradient(self, x):
            calls["gradient"] += 1
            return super().loss_and_gradient(x)

        def evaluate(self, x):
            calls["evaluation"] += 1
            return super().evaluate(x)

    straight = simulation("gradient-tracking", Counting, [RING])
    straight.run()
    undisturbed = calls.copy()
    places = {site: Checkpoints(tmp_path / site) for site in NAMES}
    first = simulation("gradient-tracking", Counting, [RING], 5, every=5, checkpoints=places)
    first.run()
    calls.clear()
    for run in first.sites.values():
        run.checkpointing.wait()
    resume = {site: place.read(5) for site, place in places.items()}
    simulation("gradient-tracking", Counting, [RING], resume=resume).run()
    assert calls == {"gradient": undisturbed["gradient"] * 4 // 10, "evaluation": 4 * 5}


def test_a_checkpoint_that_was_asked_for_by_its_iteration_is_taken(tmp_path):
    places = {site: Checkpoints(tmp_path / site) for site in NAMES}
    run = simulation("gradient-tracking", Regression, [RING], checkpoints=places)
    for site in run.sites.values():
        site.checkpoint_at(7)
    run.run()
    for site in run.sites.values():
        site.checkpointing.wait()
        assert site.checkpointing.written == 7
    assert all(place.iterations() == [7] for place in places.values())


def test_a_run_goes_on_from_its_last_iteration_to_its_end(tmp_path):
    straight = simulation("dgd-atc", Regression, [RING], 5)
    straight.run()
    places = {site: Checkpoints(tmp_path / site) for site in NAMES}
    first = simulation("dgd-atc", Regression, [RING], 5, every=5, checkpoints=places)
    first.run()
    for site in first.sites.values():
        site.checkpointing.wait()
    again = simulation(
        "dgd-atc", Regression, [RING], 5, resume={site: place.read(5) for site, place in places.items()}
    )
    again.run()
    require_the_same(again, straight)


def test_a_second_break_leaves_no_trace_either(tmp_path):
    straight = simulation("gradient-tracking", Regression, [RING], wire="int8")
    straight.run()
    once = resumed(tmp_path / "first", "gradient-tracking", Regression, [RING], at=3, wire="int8")
    require_the_same(once, straight)
    places = {site: Checkpoints(tmp_path / "first" / site, site) for site in NAMES}
    resume = {site: place.read(3) for site, place in places.items()}
    second = simulation(
        "gradient-tracking", Regression, [RING], wire="int8", every=2, checkpoints=places, resume=resume
    )
    for snapshot in second.steps():
        if snapshot.iteration == 7:
            break
    for site in second.sites.values():
        site.checkpointing.wait()
    assert all(place.iterations() == [4, 6] for place in places.values())
    third = simulation(
        "gradient-tracking",
        Regression,
        [RING],
        wire="int8",
        resume={site: place.read(6) for site, place in places.items()},
    )
    third.run()
    require_the_same(third, straight)
