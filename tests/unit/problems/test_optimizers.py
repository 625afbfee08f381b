"""Local steps by torch's optimisers, in a module problem."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from flaremesh.problems.module import Batches, ModuleProblem
from flaremesh.problems.protocol import SiteContext, Trains
from flaremesh.runtime.tree import copied, divided, joined

SITE = SiteContext("bonn", index=1, sites=3, seed=7)
RANDOM = torch.Generator().manual_seed(0)
POINTS = torch.randn(24, 5, generator=RANDOM)
LABELS = torch.arange(24) % 3
STEPSIZE = 0.05
OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "AdamW": partial(torch.optim.AdamW, weight_decay=0.1),
    "RMSprop": torch.optim.RMSprop,
    "Adagrad": torch.optim.Adagrad,
    "LBFGS": partial(torch.optim.LBFGS, max_iter=4),
}


def network():
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def problem(model=network, **options):
    options = {"optimizer": torch.optim.SGD} | options
    return ModuleProblem(SITE, model, cross_entropy, Batches(POINTS, LABELS, 6), device="cpu", **options)


def by_torch(make, steps, model=network, schedule=None):
    """What torch alone makes of the same model on the same batches."""
    with torch.random.fork_rng():
        torch.manual_seed(SITE.seed)
        module = model()
    optimizer = make(module.parameters(), lr=STEPSIZE)
    scheduler = schedule(optimizer) if schedule else None
    for step in range(steps):
        chosen = slice(6 * (step % 4), 6 * (step % 4) + 6)

        def closure(chosen=chosen):
            optimizer.zero_grad()
            loss = cross_entropy(module(POINTS[chosen]), LABELS[chosen])
            loss.backward()
            return loss

        optimizer.step(closure)
        if scheduler:
            scheduler.step()
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_local_steps_are_those_that_torch_takes_by_itself(name):
    own = problem(optimizer=OPTIMIZERS[name])
    _, z = own.train(own.initial(), 7, STEPSIZE, None)
    torch.testing.assert_close(z, by_torch(OPTIMIZERS[name], 7))


def test_moments_and_the_schedule_go_on_from_exchange_to_exchange():
    schedule = partial(CosineAnnealingLR, T_max=10)
    own = problem(optimizer=torch.optim.AdamW, schedule=schedule)
    x = own.initial()
    for _ in range(4):
        _, x = own.train(x, 2, STEPSIZE, None)
    torch.testing.assert_close(x, by_torch(torch.optim.AdamW, 8, schedule=schedule))


def test_the_point_where_the_steps_begin_is_left_as_it_is():
    own = problem()
    x = own.initial()
    before = x.clone()
    _, z = own.train(x, 3, STEPSIZE, None)
    assert torch.equal(x, before)
    assert z.data_ptr() != x.data_ptr()
    assert not torch.equal(z, x)


def test_a_shift_is_subtracted_after_every_step():
    shift = torch.linspace(-1, 1, problem().initial().numel())
    own = problem(optimizer=partial(torch.optim.SGD, weight_decay=0.0))
    x = own.initial()
    _, plain = own.train(x, 1, STEPSIZE, None)
    own = problem(optimizer=partial(torch.optim.SGD, weight_decay=0.0))
    _, shifted = own.train(x, 1, STEPSIZE, shift)
    torch.testing.assert_close(shifted, plain - shift)


def test_a_shift_shrinks_with_the_learning_rate():
    """Else the corrections of K-GT would go on where the steps have ended."""
    own = problem(schedule=partial(CosineAnnealingLR, T_max=4))
    x = own.initial()
    shift = torch.ones_like(x)
    for _ in range(4):
        _, x = own.train(x, 1, STEPSIZE, None)
    _, z = own.train(x, 1, STEPSIZE, shift)
    torch.testing.assert_close(z, x)


@pytest.mark.parametrize("layout", ["views", "copies"])
def test_parameters_keep_their_dtypes_and_memory_formats(layout):
    def model():
        module = nn.Sequential(
            nn.Unflatten(1, (5, 1, 1)), nn.Conv2d(5, 4, 1), nn.Flatten(), nn.Linear(4, 3).bfloat16()
        )
        module.insert(3, Cast(torch.bfloat16))
        return module.to(memory_format=torch.channels_last) if layout == "copies" else module

    own = problem(model)
    _, z = own.train(own.initial(), 3, STEPSIZE, torch.full_like(own.initial(), 0.01))
    kinds = [parameter.dtype for parameter in own._module.parameters()]
    assert kinds == [torch.float32, torch.float32, torch.bfloat16, torch.bfloat16]
    torch.testing.assert_close(own.state(z)["1.bias"], z[20:24], rtol=0, atol=0)


class Cast(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, inputs):
        return inputs.to(self.dtype)


def test_frozen_parameters_stay_as_they_are():
    def model():
        module = network()
        module[0].requires_grad_(False)
        return module

    own = problem(model, optimizer=partial(torch.optim.AdamW, weight_decay=0.5))
    before = own._module[0].weight.clone()
    own.train(own.initial(), 5, STEPSIZE, None)
    assert torch.equal(own._module[0].weight, before)


def test_accumulated_batches_give_the_step_of_one_batch_of_all():
    own = problem(accumulate=4)
    _, z = own.train(own.initial(), 1, STEPSIZE, None)
    whole = ModuleProblem(
        SITE, network, cross_entropy, Batches(POINTS, LABELS), device="cpu", optimizer=torch.optim.SGD
    )
    _, expected = whole.train(whole.initial(), 1, STEPSIZE, None)
    torch.testing.assert_close(z, expected)


def test_a_clipped_gradient_moves_by_at_most_its_norm():
    own = problem(clip_norm=0.01)
    x = own.initial()
    _, z = own.train(x, 1, STEPSIZE, None)
    assert float(torch.linalg.vector_norm(z - x)) == pytest.approx(STEPSIZE * 0.01, rel=1e-3)


def test_autocast_computes_in_bfloat16_and_keeps_float32_parameters():
    seen = []

    def model():
        module = network()
        module[2].register_forward_hook(lambda *passed: seen.append(passed[-1].dtype))
        return module

    own = problem(model, autocast=torch.bfloat16)
    loss, z = own.train(own.initial(), 1, STEPSIZE, None)
    assert seen == [torch.bfloat16]
    assert loss.dtype == z.dtype == torch.float32


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("schedule", [None, partial(CosineAnnealingLR, T_max=20), ReduceLROnPlateau])
def test_a_restored_problem_goes_on_with_the_same_bits(name, schedule):
    def make():
        return problem(optimizer=OPTIMIZERS[name], schedule=schedule)

    first = make()
    _, x = first.train(first.initial(), 5, STEPSIZE, None)
    kept = joined(*divided(copied(first.snapshot())))
    _, expected = first.train(x, 5, STEPSIZE, None)
    second = make()
    second.restore(kept)
    assert second.snapshot()["optimizer"] is not None  # a run may be cut again before its next step
    _, z = second.train(x, 5, STEPSIZE, None)
    assert torch.equal(z, expected)


def test_a_problem_trains_only_with_an_optimizer():
    assert isinstance(problem(), Trains)
    assert problem().trains
    assert not problem(optimizer=None).trains


def test_an_optimizer_that_an_algorithm_would_not_use_is_refused():
    own = problem()
    with pytest.raises(ValueError, match=r"choose one, such as k-gt, or leave the optimizer out"):
        own.loss_and_gradient(own.initial())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "AdamW"}, "give a class of torch.optim"),
        ({"optimizer": partial(torch.optim.SGD, lr=0.1)}, "learning rate is the run's stepsize"),
        ({"optimizer": None, "schedule": ReduceLROnPlateau}, "a schedule needs an optimizer"),
        ({"schedule": 3}, "give a partial of a torch scheduler"),
        ({"clip_norm": 0}, "clip_norm must be positive, not 0"),
        ({"accumulate": 0}, "accumulate must be a whole number from 1 on, not 0"),
        ({"autocast": torch.float16}, "float16 would need a scaled loss"),
    ],
)
def test_what_cannot_be_used_is_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        problem(**options)
