"""A torch module as a problem over one flat vector."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from flaremesh.problems.module import Batches, ModuleProblem
from flaremesh.problems.protocol import SiteContext

SITE = SiteContext("bonn", index=1, sites=3, seed=7)


def data(samples=16, features=4, classes=3):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(samples, features, generator=generator),
        torch.randint(classes, (samples,), generator=generator),
    )


def problem(model, **options):
    return ModuleProblem(
        SITE, model, cross_entropy, Batches(*data()), Batches(*data()), device="cpu", **options
    )


def mlp():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def test_the_flat_gradient_is_torchs_gradient_of_every_parameter():
    module = mlp()
    inputs, targets = data()
    expected = torch.autograd.grad(cross_entropy(module(inputs), targets), list(module.parameters()))
    flat = problem(module)
    loss, gradient = flat.loss_and_gradient(flat.initial())
    torch.testing.assert_close(gradient, torch.cat([g.reshape(-1) for g in expected]))
    assert loss.item() == pytest.approx(cross_entropy(module(inputs), targets).item())


def test_parameters_follow_the_flat_vector_without_copies():
    module = mlp()
    flat = problem(module)
    flat.loss_and_gradient(torch.full_like(flat.initial(), 0.5))
    assert all(bool((parameter == 0.5).all()) for parameter in module.parameters())
    storages = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    assert len(storages) == 1


def test_what_was_returned_is_not_changed_by_the_next_call():
    flat = problem(mlp())
    initial = flat.initial()
    kept = initial.clone()
    _, gradient = flat.loss_and_gradient(initial)
    first = gradient.clone()
    flat.loss_and_gradient(initial + 1)
    torch.testing.assert_close(gradient, first, rtol=0, atol=0)
    torch.testing.assert_close(initial, kept, rtol=0, atol=0)


class WithUnusedLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(2, 2)
        self.used = nn.Linear(4, 3)

    def forward(self, inputs):
        return self.used(inputs)


def test_unused_parameters_have_a_zero_gradient():
    flat = problem(WithUnusedLayer)
    _, gradient = flat.loss_and_gradient(flat.initial())
    assert bool((gradient[:6] == 0).all())
    assert bool((gradient[6:] != 0).any())


@pytest.mark.parametrize("frozen", [0, 2], ids=["first layer", "last layer"])
def test_a_frozen_layer_is_neither_in_the_vector_nor_moved(frozen):
    module = mlp()
    module[frozen].requires_grad_(False)
    before = module[frozen].weight.clone()
    flat = problem(module)
    assert len(flat.initial()) == sum(p.numel() for p in module.parameters() if p.requires_grad)
    flat.loss_and_gradient(flat.initial() + 1)
    torch.testing.assert_close(module[frozen].weight, before, rtol=0, atol=0)
    assert set(flat.state(flat.initial())) == set(module.state_dict())


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="no trainable parameters"):
        problem(nn.ReLU)


def test_training_data_must_not_be_empty():
    with pytest.raises(ValueError, match="no training data"):
        ModuleProblem(SITE, mlp, cross_entropy, train=[])


def test_dropout_is_active_in_training_and_off_in_evaluation():
    flat = problem(lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3)))
    x = flat.initial()
    assert flat.evaluate(x) == flat.evaluate(x)
    losses = {float(flat.loss_and_gradient(x)[0]) for _ in range(5)}
    assert len(losses) > 1


def test_batch_statistics_are_learned_in_training_and_only_used_in_evaluation():
    flat = problem(lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)))
    buffers = flat.buffers()
    assert buffers.tolist() == [0] * 4 + [1] * 4
    flat.loss_and_gradient(flat.initial())
    learned = buffers.clone()
    assert bool((learned[:4] != 0).all())
    flat.evaluate(flat.initial())
    torch.testing.assert_close(buffers, learned, rtol=0, atol=0)
    buffers.fill_(3)
    assert bool((flat.state(flat.initial())["0.running_mean"] == 3).all())


def test_a_model_without_buffers_has_none():
    assert problem(mlp).buffers() is None


def test_all_sites_start_at_the_same_point_and_the_callers_random_state_is_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    here = problem(mlp).initial()
    assert torch.equal(torch.rand(3), expected)
    other = SiteContext("kiel", index=2, sites=3, seed=SITE.seed)
    there = ModuleProblem(other, mlp, cross_entropy, Batches(*data()), device="cpu").initial()
    assert torch.equal(here, there)
    another_run = SiteContext("bonn", index=1, sites=3, seed=8)
    assert not torch.equal(here, ModuleProblem(another_run, mlp, cross_entropy, Batches(*data())).initial())


def test_evaluation_averages_over_samples_not_over_batches():
    inputs, targets = data(samples=10)
    module = mlp()
    flat = ModuleProblem(
        SITE, module, cross_entropy, Batches(inputs, targets), Batches(inputs, targets, size=4)
    )
    metrics = flat.evaluate(flat.initial())
    outputs = module(inputs)
    assert metrics["loss"] == pytest.approx(cross_entropy(outputs, targets).item(), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx((outputs.argmax(1) == targets).double().mean().item())


def test_regression_has_a_loss_and_no_accuracy():
    inputs, _ = data()
    flat = ModuleProblem(
        SITE, lambda: nn.Linear(4, 4), mse_loss, Batches(inputs, inputs), Batches(inputs, inputs)
    )
    assert set(flat.evaluate(flat.initial())) == {"loss"}


def test_mini_batches_are_shuffled_anew_each_pass_and_reproducible():
    inputs = torch.arange(10.0)

    def two_passes(site):
        batches = Batches(inputs, inputs, size=3, generator=site.generator())
        return [torch.cat([x for x, _ in batches]) for _ in range(2)]

    first, second = two_passes(SITE)
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, inputs)
    again = two_passes(SITE)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    assert not torch.equal(first, two_passes(SiteContext("kiel", index=2, sites=3, seed=7))[0])


def test_a_data_loader_is_iterated_over_again_and_again():
    inputs, targets = data(samples=6)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=4)
    flat = ModuleProblem(SITE, mlp, cross_entropy, loader, loader, device="cpu")
    x = flat.initial()
    losses = [flat.loss_and_gradient(x)[0].item() for _ in range(4)]
    assert losses[:2] == losses[2:]
    assert losses[0] != losses[1]
    assert set(flat.evaluate(x)) == {"loss", "accuracy"}


def test_a_batch_has_at_least_one_sample():
    with pytest.raises(ValueError, match="at least 1"):
        Batches(*data(), size=0)
