"""Models, batches and metrics as people of the field have them, in a module problem."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from flaremesh.problems.module import Batches, ModuleProblem
from flaremesh.problems.protocol import SiteContext

SITE = SiteContext("bonn", index=0, sites=1, seed=0)
RANDOM = torch.Generator().manual_seed(0)
IMAGES = torch.randn(12, 3, 8, 8, generator=RANDOM)
POINTS = torch.randn(12, 5, generator=RANDOM)
LABELS = torch.arange(12) % 2


def module_problem(model, inputs=POINTS, targets=LABELS, loss=cross_entropy, **options):
    return ModuleProblem(
        SITE, model, loss, train=Batches(inputs, targets), test=Batches(inputs, targets), **options
    )


def descended(problem, steps=5, step=0.05):
    x = problem.initial()
    for _ in range(steps):
        x = x - step * problem.loss_and_gradient(x)[1]
    return x


def convolutional():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))


# memory formats and dtypes


def test_a_model_in_channels_last_gives_what_the_contiguous_one_gives():
    plain = module_problem(convolutional, IMAGES)
    last = module_problem(lambda: convolutional().to(memory_format=torch.channels_last), IMAGES)
    torch.testing.assert_close(last.initial(), plain.initial(), rtol=0, atol=0)
    torch.testing.assert_close(descended(last), descended(plain))


def test_a_model_in_channels_last_stays_in_it():
    model = convolutional().to(memory_format=torch.channels_last)
    descended(module_problem(model, IMAGES))
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def halves_with_whole_norms():
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).bfloat16()
    model[1].float()
    return model


def test_every_parameter_keeps_its_dtype_and_x_has_the_widest():
    model = halves_with_whole_norms()
    problem = module_problem(model, POINTS.bfloat16())
    before = problem.evaluate(problem.initial())["loss"]
    x = descended(problem, steps=20)
    assert x.dtype == torch.float32
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16, torch.float32}
    assert problem.evaluate(x)["loss"] < before


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_model_of_one_dtype_has_x_in_it(dtype):
    problem = module_problem(lambda: nn.Linear(5, 2).to(dtype), POINTS.to(dtype))
    assert problem.loss_and_gradient(problem.initial())[1].dtype == dtype


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((5, 2), 0.1, dtype=torch.complex64))

    def forward(self, inputs):
        return (inputs.to(torch.complex64) @ self.weight).abs()


def test_complex_parameters_are_pairs_of_numbers_and_descend():
    problem = module_problem(Complex)
    assert len(problem.initial()) == 20
    before = problem.evaluate(problem.initial())["loss"]
    assert problem.evaluate(descended(problem, 20))["loss"] < before


def test_tied_weights_stand_in_the_vector_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)
            self.b.weight = self.a.weight

        def forward(self, inputs):
            return self.b(self.a(inputs))

    problem = module_problem(Tied, POINTS, POINTS, nn.MSELoss())
    assert len(problem.initial()) == 25 + 5 + 5
    assert problem.loss_and_gradient(problem.initial())[1].isfinite().all()


def test_parameters_that_the_models_own_code_moves_still_follow_x():
    class Moving(nn.Linear):
        def forward(self, inputs):
            self.weight.data = self.weight.data.clone()  # as flatten_parameters() of a recurrent layer does
            return super().forward(inputs)

    plain, moving = module_problem(lambda: nn.Linear(5, 2)), module_problem(lambda: Moving(5, 2))
    torch.testing.assert_close(descended(moving), descended(plain))


def test_a_module_whose_train_returns_nothing_is_taken():
    class Silent(nn.Linear):
        def train(self, mode=True):
            super().train(mode)

    assert descended(module_problem(lambda: Silent(5, 2))).isfinite().all()


def test_lazy_parameters_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match="let a batch through it"):
        module_problem(lambda: nn.LazyLinear(2))


@pytest.mark.parametrize("model", ["resnet", lambda: "resnet"])
def test_what_is_no_module_is_refused(model):
    with pytest.raises(TypeError, match=r"the model.* a str"):
        module_problem(model)


# modes and buffers


def test_what_the_builder_put_in_eval_mode_stays_in_it():
    model = convolutional()
    model[1].eval()
    problem = module_problem(model, IMAGES)
    problem.evaluate(descended(problem))
    assert [part.training for part in (model, model[0], model[1])] == [True, True, False]
    assert bool((model[1].running_mean == 0).all())


def test_a_model_that_comes_in_eval_mode_as_a_whole_is_trained():
    model = convolutional().eval()
    descended(module_problem(model, IMAGES))
    assert all(part.training for part in model.modules())
    assert bool((model[1].running_mean != 0).all())


class RunningMean(nn.Module):
    def __init__(self, replace, dtype=torch.float32):
        super().__init__()
        self.head, self.replace = nn.Linear(5, 2), replace
        self.register_buffer("mean", torch.zeros(5, dtype=dtype))

    def forward(self, inputs):
        if self.training:
            mean = 0.5 * self.mean + 0.5 * inputs.mean(0).detach().to(self.mean.dtype)
            if self.replace:
                self.mean = mean
            else:
                self.mean.copy_(mean)
        return self.head(inputs - self.mean.float())


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_buffer_is_mixed_whichever_way_the_module_writes_it(replace, dtype):
    model = RunningMean(replace, dtype)
    problem = module_problem(model)
    buffers = problem.buffers()
    problem.loss_and_gradient(problem.initial())
    torch.testing.assert_close(buffers, 0.5 * POINTS.mean(0).to(dtype))
    buffers.fill_(3.0)  # as the mixing does
    assert bool((model.mean == 3.0).all())


def test_buffers_of_several_dtypes_are_one_vector():
    class Several(RunningMean):
        def __init__(self):
            super().__init__(replace=True)
            self.register_buffer("scale", torch.ones(3, dtype=torch.bfloat16))
            self.register_buffer("steps", torch.zeros(2, dtype=torch.long))

        def forward(self, inputs):
            self.scale = self.scale * 2
            return super().forward(inputs) * self.scale[0].float()

    model = Several()
    problem = module_problem(model)
    buffers = problem.buffers()
    assert (buffers.dtype, len(buffers)) == (torch.float32, 8)
    problem.loss_and_gradient(problem.initial())
    assert buffers[5:].tolist() == [2.0] * 3
    buffers[5:] = 1.5
    problem.loss_and_gradient(problem.initial())
    assert model.scale.dtype == torch.bfloat16
    assert model.scale.tolist() == [3.0] * 3


def test_buffers_that_are_caches_stay_the_modules_own():
    class Cached(nn.Linear):
        def __init__(self):
            super().__init__(5, 2)
            self.register_buffer("cache", torch.zeros(3), persistent=False)
            self.register_buffer("nothing", None)

    assert module_problem(Cached).buffers() is None


def test_a_buffer_that_grows_is_named():
    class Growing(nn.Linear):
        def __init__(self):
            super().__init__(5, 2)
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, inputs):
            self.seen = torch.cat([self.seen, self.seen])
            return super().forward(inputs)

    problem = module_problem(Growing)
    problem.buffers()
    with pytest.raises(ValueError, match=r"the buffer seen has changed from shape \(1,\) to \(2,\)"):
        problem.loss_and_gradient(problem.initial())


# gradients


def test_a_gradient_arrives_although_users_code_drops_the_memory_of_the_last_one():
    model = nn.Linear(5, 2)

    def loss(outputs, targets):
        model.zero_grad(set_to_none=True)
        return cross_entropy(outputs, targets)

    assert module_problem(model, loss=loss).loss_and_gradient(module_problem(model).initial())[1].any()


@pytest.mark.parametrize(
    "loss",
    [
        lambda outputs, targets: cross_entropy(outputs.detach(), targets),
        lambda outputs, targets: torch.zeros((), requires_grad=True),
        lambda outputs, targets: (outputs.argmax(1) != targets).float().mean(),
    ],
)
def test_a_loss_that_no_parameter_moves_is_refused(loss):
    problem = module_problem(lambda: nn.Linear(5, 2), loss=loss)
    with pytest.raises(ValueError, match="no gradient arrives"):
        problem.loss_and_gradient(problem.initial())


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(reduction="none"), lambda o, t: 1.0, lambda o, t: None])
def test_a_loss_that_is_no_single_number_is_refused(loss):
    problem = module_problem(lambda: nn.Linear(5, 2), loss=loss)
    with pytest.raises(ValueError, match="one number is expected"):
        problem.loss_and_gradient(problem.initial())


def test_a_sparse_gradient_is_taken():
    problem = module_problem(
        lambda: nn.Sequential(nn.Embedding(11, 2, sparse=True), nn.Flatten(), nn.Linear(8, 2)),
        torch.randint(0, 11, (12, 4), generator=RANDOM),
    )
    assert problem.loss_and_gradient(problem.initial())[1].is_contiguous()


def test_every_gradient_is_fresh_memory():
    problem = module_problem(lambda: nn.Linear(5, 2))
    first, second = (problem.loss_and_gradient(problem.initial())[1] for _ in range(2))
    assert first.data_ptr() != second.data_ptr()


# batches


def test_inputs_and_targets_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="12 inputs and 24 targets do not belong together"):
        Batches(POINTS, torch.cat([LABELS, LABELS]), 8)


@pytest.mark.parametrize(
    ("batch", "kind"),
    [
        ({"image": POINTS, "label": LABELS}, "a dict with the keys image, label"),
        ((POINTS, LABELS, LABELS), "a tuple of 3"),
        ([POINTS], "a list of 1"),
        (POINTS, "a Tensor"),
    ],
)
def test_a_batch_that_is_no_pair_is_named(batch, kind):
    problem = ModuleProblem(SITE, lambda: nn.Linear(5, 2), cross_entropy, train=[batch])
    with pytest.raises(ValueError, match=rf"a batch must be \(inputs, targets\).* {kind}"):
        problem.loss_and_gradient(problem.initial())


class Summing(nn.Linear):
    """Takes any collection of tensors."""

    def forward(self, inputs):
        parts = inputs.values() if isinstance(inputs, dict) else inputs
        return super().forward(sum(parts))


@pytest.mark.parametrize(
    "inputs", [(POINTS, POINTS), [POINTS, POINTS], {"a": POINTS, "b": POINTS}, (POINTS.numpy(), POINTS)]
)
def test_collections_of_inputs_reach_the_model(inputs):
    problem = ModuleProblem(
        SITE, lambda: Summing(5, 2), cross_entropy, train=[(inputs, LABELS)], test=[(inputs, LABELS)]
    )
    x = descended(problem)
    assert problem.evaluate(x)["accuracy"] == pytest.approx(
        float(
            (problem._module(inputs if isinstance(inputs, dict) else [POINTS, POINTS]).argmax(1) == LABELS)
            .float()
            .mean()
        )
    )


def test_numpy_arrays_are_taken():
    problem = ModuleProblem(
        SITE, lambda: nn.Linear(5, 2), cross_entropy, train=[(POINTS.numpy(), LABELS.numpy())]
    )
    assert descended(problem).isfinite().all()


@pytest.mark.parametrize("which", ["train", "test"])
def test_what_can_be_gone_through_only_once_is_refused(which):
    batches = {"train": [(POINTS, LABELS)], "test": [(POINTS, LABELS)]}
    batches[which] = iter(batches[which])
    with pytest.raises(TypeError, match=f"{which} can be gone through only once"):
        ModuleProblem(SITE, lambda: nn.Linear(5, 2), cross_entropy, **batches)


@pytest.mark.parametrize(
    "train",
    [
        Batches(POINTS[:0], LABELS[:0], 8),
        Batches(POINTS[:0], LABELS[:0]),
        [],
        DataLoader(TensorDataset(POINTS, LABELS), batch_size=64, drop_last=True),
    ],
)
def test_a_site_without_training_data_is_told_so(train):
    with pytest.raises(ValueError, match="there is no training data"):
        ModuleProblem(SITE, lambda: nn.Linear(5, 2), cross_entropy, train=train)


def test_a_stream_that_does_not_say_its_length_is_taken():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from zip(POINTS, LABELS, strict=True)

    problem = ModuleProblem(SITE, lambda: nn.Linear(5, 2), cross_entropy, train=DataLoader(Stream(), 4))
    assert descended(problem, steps=7).isfinite().all()


@pytest.mark.parametrize("test", [(), [], Batches(POINTS[:0], LABELS[:0])])
def test_without_test_data_there_are_no_metrics(test):
    problem = ModuleProblem(SITE, lambda: nn.Linear(5, 2), cross_entropy, [(POINTS, LABELS)], test)
    assert problem.evaluate(problem.initial()) == {}


# accuracy


class Fixed(nn.Module):
    """Gives the same outputs whatever the inputs."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs, self.scale = outputs, nn.Parameter(torch.ones(1))

    def forward(self, inputs):
        return self.outputs


def accuracy_of(outputs, targets, loss=lambda o, t: torch.zeros(())):
    inputs = torch.zeros(len(targets) if isinstance(targets, torch.Tensor) else 1)
    problem = ModuleProblem(
        SITE, lambda: Fixed(outputs), loss, train=[(inputs, targets)], test=[(inputs, targets)]
    )
    return problem.evaluate(problem.initial()).get("accuracy")


def scores(labels, classes, dim):
    """Outputs whose greatest score is at these labels."""
    return nn.functional.one_hot(labels, classes).float().movedim(-1, dim)


WORDS = torch.randint(0, 11, (4, 6), generator=RANDOM)
PIXELS = torch.randint(0, 3, (2, 5, 7), generator=RANDOM)


@pytest.mark.parametrize(
    ("labels", "classes", "dim"),
    [(WORDS, 11, -1), (WORDS, 11, 1), (PIXELS, 3, 1), (PIXELS, 3, -1), (LABELS, 2, 1)],
    ids=["words last", "words first", "pixels first", "pixels last", "plain"],
)
def test_the_class_dimension_is_found(labels, classes, dim):
    wrong = labels.clone()
    wrong.view(-1)[0] = (wrong.view(-1)[0] + 1) % classes
    assert accuracy_of(scores(labels, classes, dim), labels) == 1.0
    assert accuracy_of(scores(wrong, classes, dim), labels) == pytest.approx(1 - 1 / labels.numel())


def test_ignored_labels_do_not_count():
    labels = PIXELS.clone()
    labels[0] = -100
    labels[1, 0] = 255
    assert accuracy_of(scores(PIXELS, 3, 1), labels) == 1.0
    padded = nn.CrossEntropyLoss(ignore_index=0)
    right = scores(PIXELS.clamp(min=1), 3, 1)  # wrong wherever the label is 0
    assert accuracy_of(right, PIXELS, padded) == 1.0
    assert accuracy_of(scores(PIXELS, 3, 1), torch.full_like(PIXELS, -100)) is None


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (torch.zeros(6, 4, 4), torch.zeros(6, 4, dtype=torch.long)),  # time 4, four words: which is which?
        (torch.zeros(6, 1), torch.ones(6, dtype=torch.long)),  # one logit
        (torch.zeros(6), torch.ones(6, dtype=torch.long)),
        (torch.zeros(6, 3), torch.zeros(6)),
        (torch.zeros(6, 3), torch.zeros(6, dtype=torch.bool)),
        (torch.zeros(6, 3), torch.zeros(6, 3, dtype=torch.long)),
        ((torch.zeros(6, 3), torch.zeros(6, 3)), torch.zeros(6, dtype=torch.long)),
        ({"logits": torch.zeros(6, 3)}, torch.zeros(6, dtype=torch.long)),
        (torch.zeros(6, 3), {"label": torch.zeros(6, dtype=torch.long)}),
    ],
)
def test_where_it_would_be_a_guess_there_is_no_accuracy(outputs, targets):
    assert accuracy_of(outputs, targets) is None


def test_batches_weigh_by_their_labels():
    outputs = scores(torch.tensor([0, 0, 0, 0]), 2, 1)
    batches = [
        (torch.zeros(4), torch.tensor([0, 0, 0, 1])),
        (torch.zeros(4), torch.tensor([-100, -100, -100, 1])),
    ]
    problem = ModuleProblem(SITE, lambda: Fixed(outputs), lambda o, t: torch.zeros(()), batches, batches)
    assert problem.evaluate(problem.initial())["accuracy"] == pytest.approx(3 / 5)


def test_metrics_are_plain_numbers():
    metrics = module_problem(lambda: nn.Linear(5, 2)).evaluate(
        module_problem(lambda: nn.Linear(5, 2)).initial()
    )
    assert {type(value) for value in metrics.values()} == {float}
    assert all(math.isfinite(value) for value in metrics.values())
    assert not isinstance(metrics["loss"], np.generic)


def test_sites_that_are_given_one_module_train_each_its_own():
    model = convolutional()
    first, second = (module_problem(model, IMAGES) for _ in range(2))
    descended(first)
    assert first._module[1].running_mean.any()
    assert not second._module[1].running_mean.any()


def test_a_parameter_that_shares_memory_with_itself_is_taken():
    class Expanded(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(1).expand(2))
            self.weight = nn.Parameter(torch.randn(2, 5).t())

        def forward(self, inputs):
            return inputs @ self.weight + self.shift

    problem = module_problem(Expanded)
    before = problem.evaluate(problem.initial())["loss"]
    assert problem.evaluate(descended(problem, 20))["loss"] < before


def test_a_loss_with_parameters_of_its_own_is_refused():
    class Weighted(nn.CrossEntropyLoss):
        def __init__(self):
            super().__init__()
            self.temperature = nn.Parameter(torch.ones(()))

    with pytest.raises(ValueError, match="the loss has trainable parameters"):
        module_problem(lambda: nn.Linear(5, 2), loss=Weighted())
