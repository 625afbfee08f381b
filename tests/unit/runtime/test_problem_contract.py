"""Whatever a user's problem returns gives a result, or a sentence with the site and what was expected."""

import contextlib
import logging
import math
import os
from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flaremesh.algorithms import FixedPoint, algorithm_class, create, names
from flaremesh.errors import FlaremeshError
from flaremesh.problems.protocol import ProblemError, SiteContext
from flaremesh.runtime.contract import CheckedProblem
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.simulate import Simulation
from flaremesh.runtime.site_run import NonFiniteValue
from flaremesh.topology.neighborhood import Neighborhood

X = torch.zeros(3)
SITES = ("heidelberg", "bonn")
PAIR = {a: (Neighborhood(a, 0.5, {b: 0.5}, (b,)),) for a, b in (SITES, SITES[::-1])}
AVERAGES = {name for name in names() if algorithm_class(name).fixed_point is FixedPoint.MEAN}
"""They need no gradient."""
HYPERPARAMETERS = {name: {} if name in AVERAGES else {"stepsize": 0.1} for name in names()}


class LeastSquares:
    """A problem that keeps its promises, unless a test replaces one of its answers."""

    def __init__(self, site=None, **answers):
        self.statistics = torch.zeros(2)
        self.answers = answers

    def initial(self):
        return self._answer("initial", torch.zeros(3))

    def loss_and_gradient(self, x):
        loss = self._answer("loss", x.square().sum() / 2)
        return self._answer("both", (loss, self._answer("gradient", x - 1)))

    def evaluate(self, x):
        return self._answer("evaluate", {"loss": float(x.square().sum())})

    def buffers(self):
        return self._answer("buffers", self.statistics)

    def state(self, x):
        return self._answer("state", {"x": x})

    def _answer(self, name, right):
        answer = self.answers.get(name, right)
        return answer() if callable(answer) else answer


def checked(**answers):
    return CheckedProblem(LeastSquares(**answers), "heidelberg")


def fails(what):
    return pytest.raises(ProblemError, match=f"^the problem of heidelberg gives {what}")


@pytest.mark.parametrize(
    ("x", "kind"),
    [
        (torch.zeros(3, dtype=torch.long), r"int64 \(3,\)"),
        (torch.zeros(3, 2), r"float32 \(3, 2\)"),
        (torch.zeros(()), r"float32 \(\)"),
        (torch.zeros(0), r"float32 \(0,\)"),
        (torch.zeros(3, dtype=torch.complex64), r"complex64 \(3,\)"),
        (torch.zeros(3).to_sparse(), r"sparse float32 \(3,\)"),
        (np.zeros(3), r"a NumPy array, float64 \(3,\)"),
        ([0.0, 0.0], "a list"),
        (None, "None"),
    ],
)
def test_an_initial_point_that_is_no_float_vector_is_named(x, kind):
    with fails(rf"an initial point of {kind}; a float tensor \(d,\) is expected"):
        checked(initial=x).initial()


@pytest.mark.parametrize(
    ("gradient", "kind"),
    [
        (torch.zeros(3, dtype=torch.float64), r"float64 \(3,\); x is float32 \(3,\)"),
        (torch.zeros(1), r"float32 \(1,\); x is float32 \(3,\)"),
        (torch.zeros(3, 1), r"float32 \(3, 1\); x is"),
        (torch.zeros(3).to_sparse(), r"sparse float32 \(3,\); x is"),
        (np.zeros(3, dtype=np.float32), r"a NumPy array, float32 \(3,\); x is"),
        (None, "None; x is"),
    ],
)
def test_a_gradient_that_is_not_like_x_is_named(gradient, kind):
    with fails(rf"a gradient of {kind}"):
        checked(gradient=gradient).loss_and_gradient(X)


def test_a_gradient_that_is_not_contiguous_is_refused():
    with fails("a gradient that is not contiguous"):
        checked(gradient=torch.zeros(6)[::2]).loss_and_gradient(X)


def test_a_gradient_in_the_memory_of_one_that_is_still_needed_is_refused():
    problem = checked(gradient=torch.zeros(3))
    _, kept = problem.loss_and_gradient(X)
    with fails("each gradient in the memory of the one before"):
        problem.loss_and_gradient(X)
    del kept


def test_a_gradient_may_come_in_the_memory_of_one_that_nobody_needs_any_more():
    problem = checked(gradient=torch.zeros(3))
    problem.loss_and_gradient(X)
    problem.loss_and_gradient(X)


def test_a_problem_that_writes_to_x_is_refused():
    x = X.clone()
    problem = CheckedProblem(LeastSquares(), "heidelberg")
    problem.problem.loss_and_gradient = lambda x: (torch.tensor(0.0), x.sub_(1).clone())
    with fails("back an x that it has written to"):
        problem.loss_and_gradient(x)


def test_a_problem_may_let_torch_differentiate_at_x():
    class Differentiated(LeastSquares):
        def loss_and_gradient(self, x):
            x.requires_grad_()
            loss = (x - 1).square().sum()
            loss.backward()
            return loss, x.grad

    x = X.clone()
    loss, gradient = CheckedProblem(Differentiated(), "heidelberg").loss_and_gradient(x)
    assert gradient.tolist() == [-2.0] * 3
    assert not x.requires_grad
    assert not loss.requires_grad


@pytest.mark.parametrize("loss", [0.5, np.float32(0.5), torch.tensor([0.5]), np.array(0.5)])
def test_one_number_of_any_kind_is_a_loss(loss):
    assert float(checked(loss=loss).loss_and_gradient(X)[0]) == 0.5


@pytest.mark.parametrize(
    ("loss", "kind"), [(torch.zeros(2), r"float32 \(2,\)"), (None, "None"), ("low", "a str")]
)
def test_a_loss_that_is_no_number_is_named(loss, kind):
    with fails(f"a loss of {kind}; one number is expected"):
        checked(loss=loss).loss_and_gradient(X)


@pytest.mark.parametrize("both", [None, torch.zeros(3), (torch.zeros(3),), (1, 2, 3)])
def test_an_answer_that_is_no_pair_is_named(both):
    with fails("(.*); loss and gradient are expected"):
        checked(both=lambda: both).loss_and_gradient(X)


@pytest.mark.parametrize(
    "value",
    [
        0.5,
        np.float32(0.5),
        np.float64(0.5),
        torch.tensor(0.5),
        torch.tensor([0.5]),
        np.array([0.5]),
        np.float16(0.5),
    ],
)
def test_a_metric_may_be_a_number_of_any_kind(value):
    metrics = checked(evaluate={"auc": value}).evaluate(X)
    assert metrics == {"auc": 0.5}
    assert type(metrics["auc"]) is float


def test_whole_numbers_and_truth_values_are_metrics_and_none_is_no_value():
    metrics = checked(evaluate={"n": 3, "m": np.int64(4), "ok": True, "auc": None}).evaluate(X)
    assert metrics == {"n": 3.0, "m": 4.0, "ok": 1.0}


@pytest.mark.parametrize("value", ["fine", "0.5", b"1", [0.5], {}, torch.zeros(2), 1j, object()])
def test_anything_else_is_refused_with_the_metrics_name(value):
    with fails("a metric auc that is .*; a number is expected, or None"):
        checked(evaluate={"auc": value}).evaluate(X)


@pytest.mark.parametrize("metrics", [dict.fromkeys(range(257), 1.0), {"m" * 257: 1.0}], ids=["many", "long"])
def test_metrics_that_nobody_would_take_are_refused_where_they_are_made(metrics):
    with fails(".* metrics; a server takes 256, with names of 256 letters"):
        checked(evaluate=metrics).evaluate(X)


@pytest.mark.parametrize("metrics", [None, 0.5, [("loss", 1.0)]])
def test_metrics_that_are_no_mapping_are_refused(metrics):
    with fails("metrics that are"):
        checked(evaluate=metrics).evaluate(X)


@pytest.mark.parametrize(
    "buffers", [torch.zeros(2, 2), torch.zeros(2, dtype=torch.long), [], torch.zeros(4)[::2]]
)
def test_buffers_that_are_no_float_vector_are_refused(buffers):
    with fails("buffers of"):
        checked(buffers=buffers).buffers()


def test_buffers_in_new_memory_at_each_call_are_refused():
    with fails("its buffers in new memory at each call"):
        checked(buffers=lambda: torch.zeros(3)).buffers()


def test_what_can_be_saved_is_saved_and_the_rest_is_told(caplog):
    state = {"w": torch.ones(2), "seen": {"n": 1}, "name": "net", "sparse": torch.ones(2).to_sparse()}
    with caplog.at_level(logging.WARNING, "flaremesh"):
        saved = checked(state=state).state(X)
    assert list(saved) == ["w"]
    assert "heidelberg: left out of the saved model" in caplog.text
    for name in ("seen (a dict)", "name (a str)", "sparse"):
        assert name in caplog.text


def raising(error):
    def fail():
        raise error

    return fail


@pytest.mark.parametrize("name", ["initial", "loss", "evaluate", "buffers", "state"])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SystemExit(3), r"it called sys.exit\(3\)"),
        (KeyError("lr"), "KeyError: 'lr'"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_what_a_problem_raises_is_told_with_its_site(name, error, words):
    with pytest.raises(ProblemError, match=f"^the problem of heidelberg failed: {words}"):
        simulation(heidelberg=LeastSquares(**{name: raising(error)})).run()


# whole runs


def simulation(algorithm="dgd", options=None, **problems):
    return Simulation(
        PAIR,
        create(algorithm, **HYPERPARAMETERS[algorithm]),
        lambda site: problems.get(site.name) or LeastSquares(),
        options or RunOptions(iterations=3),
    )


@pytest.mark.parametrize("algorithm", sorted(set(names()) - AVERAGES))
@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"loss": torch.tensor(math.nan)}, "the training loss of bonn is nan at the start: look at its data"),
        ({"gradient": torch.tensor([0.0, math.inf, 0.0])}, "the gradient of bonn is not finite at the start"),
        ({"initial": torch.tensor([0.0, math.nan, 0.0])}, "the initial point of bonn is not finite"),
    ],
)
def test_the_site_whose_numbers_are_not_finite_is_named_in_every_algorithm(algorithm, answers, words):
    with pytest.raises(NonFiniteValue, match=words):
        simulation(algorithm, bonn=LeastSquares(**answers)).run()


@pytest.mark.parametrize("algorithm", sorted(set(names()) - AVERAGES))
def test_a_gradient_that_spoils_a_later_message_is_noticed_where_it_was_made(algorithm):
    calls = count()

    def gradient():
        return torch.full((3,), math.nan if next(calls) >= 2 else 1.0)

    with pytest.raises(NonFiniteValue, match=r"^bonn has a non-finite value"):
        simulation(algorithm, RunOptions(iterations=10), bonn=LeastSquares(gradient=gradient)).run()


@pytest.mark.parametrize("constant", [-math.inf, math.nan, 0.1])
def test_buffers_that_training_does_not_change_stay_as_they_are(constant):
    problems = {name: LeastSquares() for name in SITES}
    for number, problem in enumerate(problems.values()):
        problem.statistics = torch.tensor([constant, float(number)])  # a mask, and a site's own constant
    run = simulation(**problems)
    run.run()
    for number, problem in enumerate(problems.values()):
        torch.testing.assert_close(
            problem.statistics, torch.tensor([constant, float(number)]), rtol=0, atol=0, equal_nan=True
        )


def test_models_of_different_sizes_are_told_with_the_sites():
    with pytest.raises(ProblemError, match=r"^bonn has 4 float32 parameters, and heidelberg has 3 float32.*"):
        simulation(bonn=LeastSquares(initial=torch.zeros(4)))


class Drawing(LeastSquares):
    """Draws from every global generator, at its making and at each gradient."""

    def __init__(self, site: SiteContext):
        super().__init__()
        self.start = self.drawn()

    @staticmethod
    def drawn():
        import random

        return torch.rand(3) + float(np.random.rand()) + random.random()

    def initial(self):
        return self.start

    def loss_and_gradient(self, x):
        gradient = self.drawn()
        return gradient.sum(), gradient


def test_the_seed_makes_a_run_repeatable_and_sites_differ_only_after_they_start():
    def run(seed):
        simulated = Simulation(PAIR, create("dgd", stepsize=0.1), Drawing, RunOptions(iterations=5), seed)
        assert simulated.snapshots[0].consensus_distance == pytest.approx(0, abs=1e-6)
        simulated.run()
        return [simulated.sites[site].estimate for site in SITES]

    (a, b), again, other = run(0), run(0), run(1)
    assert torch.equal(a, again[0])
    assert torch.equal(b, again[1])
    assert not torch.equal(a, other[0])
    assert not torch.equal(a, b)


def test_a_simulation_leaves_the_generators_of_its_process_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    Simulation(PAIR, create("dgd", stepsize=0.1), Drawing, RunOptions(iterations=2)).run()
    assert torch.equal(torch.rand(1), expected)


# any problem at all

NUMBERS = st.sampled_from([0.0, 1.0, -1.0, 1e30, math.nan, math.inf, -math.inf])


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(["float32", "float32", "float64", "bfloat16", "complex64", "int64", "bool"]))
    shape = draw(st.sampled_from([(3,), (3,), (), (0,), (1,), (2,), (4,), (3, 1), (1, 3)]))
    tensor = torch.full(shape, draw(NUMBERS)).nan_to_num().to(getattr(torch, dtype))
    match draw(st.sampled_from(["plain", "plain", "sparse", "strided", "array", "leaf"])):
        case "sparse":
            return tensor.to_sparse()
        case "strided":
            return torch.stack([tensor, tensor], dim=-1)[..., 0]
        case "array" if dtype != "bfloat16":
            return tensor.numpy()
        case "leaf" if tensor.is_floating_point():
            return tensor.requires_grad_()
    return tensor


ERRORS = st.sampled_from(
    [
        SystemExit(2),
        ValueError("no"),
        KeyError(3),
        MemoryError(),
        RecursionError(),
        StopIteration(),
        OSError(5, "io"),
    ]
).map(raising)
VALUES = st.one_of(tensors(), tensors(), NUMBERS, st.none(), st.text(max_size=3), st.integers(), ERRORS)
ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        "initial": VALUES,
        "loss": VALUES,
        "gradient": VALUES,
        "both": st.one_of(VALUES, st.tuples(VALUES, VALUES).map(lambda pair: lambda: pair)),
        "evaluate": st.one_of(
            VALUES, st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), VALUES, max_size=3)
        ),
        "buffers": VALUES,
        "state": st.one_of(VALUES, st.dictionaries(st.text(max_size=3), VALUES, max_size=3)),
    },
)


@settings(max_examples=int(os.environ.get("FLAREMESH_FUZZ_EXAMPLES", "150")), derandomize=True, deadline=None)
@given(
    st.sampled_from(names()),
    ANSWERS,
    ANSWERS,
    st.sampled_from(["exact", "bfloat16", "int8", "top-k"]),
    st.booleans(),
)
def test_any_problem_gives_a_result_or_a_sentence(algorithm, mine, theirs, wire, stop):
    options = RunOptions(iterations=3, wire=wire, stop_on_non_finite=stop)
    problems = {"heidelberg": LeastSquares(**mine), "bonn": LeastSquares(**theirs)}
    # an error of any other kind is one that the product did not see coming
    with contextlib.suppress(FlaremeshError):
        run = simulation(algorithm, options, **problems)
        run.run()
        run.document()
