"""Problems that a file or a job names are built, or refused with the reason."""

import pytest

from flaremesh.problems.protocol import ProblemError, SiteContext
from flaremesh.problems.reference import load_problem

SITE = SiteContext("bonn", index=0, sites=1, seed=0)


def test_a_problem_of_thirty_lines_is_built_with_its_arguments():
    problem = load_problem("linear_regression.LinearRegression", SITE, {"samples": 8})
    x = problem.initial()
    for _ in range(300):
        x = x - 0.1 * problem.loss_and_gradient(x)[1]
    assert problem.evaluate(x)["loss"] < 1e-3
    assert {name: tuple(value.shape) for name, value in problem.state(x).items()} == {
        "weight": (1, 3),
        "bias": (1,),
    }


@pytest.mark.parametrize(
    ("path", "args", "message"),
    [
        ("Digits", {}, "'Digits' names no class: write package.module.Class"),
        ("no.such.Problem", {}, "cannot import the problem no.such.Problem at bonn: No module named 'no'"),
        ("linear_regression.Missing", {}, "linear_regression has no class Missing"),
        (
            "linear_regression.LinearRegression",
            {"sample": 1},
            "at bonn: TypeError: .*unexpected keyword.*'sample'",
        ),
        ("linear_regression.Broken", {}, "Broken at bonn: RuntimeError: the disk is on fire"),
        ("linear_regression.Half", {}, "linear_regression.Half is no problem: it has no restore"),
        ("flaremesh.problems.mnist.Mnist", {}, "Mnist at bonn: give the folder of the MNIST files"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(path, args, message):
    with pytest.raises(ProblemError, match=message):
        load_problem(path, SITE, args)
