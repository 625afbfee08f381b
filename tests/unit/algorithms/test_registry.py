import pytest

from flaremesh.algorithms import Weights, algorithm_class, create, names, register


def test_every_algorithm_of_the_field_guide_is_there():
    assert names() == sorted(
        ["consensus", "dgd", "dgd-atc", "dgd-cta", "gradient-tracking", "gtadam", "push-sum", "sgp"]
    )


def test_only_the_push_sum_family_runs_on_column_stochastic_weights():
    directed = {name for name in names() if algorithm_class(name).weights is Weights.COLUMN_STOCHASTIC}
    assert directed == {"push-sum", "sgp"}


def test_an_unknown_algorithm_is_answered_with_the_known_ones():
    with pytest.raises(KeyError, match=r"unknown algorithm 'adam'; known are consensus, dgd"):
        create("adam")


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="registered twice"):
        register("consensus")(object)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("dgd", {}, "dgd needs a value for stepsize"),
        ("consensus", {"stepsize": 0.1}, "consensus has no parameter stepsize; it takes none"),
        ("gtadam", {"stepsize": 0.1, "beta3": 0.1}, "no parameter beta3; it takes stepsize, beta1, beta2"),
    ],
)
def test_missing_and_unknown_parameters_are_named(name, parameters, message):
    with pytest.raises(TypeError, match=message):
        create(name, **parameters)


@pytest.mark.parametrize("stepsize", [0, -1, float("nan"), float("inf"), "0.1", True])
@pytest.mark.parametrize("name", ["dgd", "dgd-cta", "dgd-atc", "gradient-tracking", "gtadam", "sgp"])
def test_a_stepsize_is_a_positive_number(name, stepsize):
    with pytest.raises(ValueError, match="stepsize must be positive and finite"):
        create(name, stepsize=stepsize)


@pytest.mark.parametrize("parameters", [{"beta1": 1}, {"beta2": -0.1}, {"epsilon": 0}, {"G": -1}])
def test_gtadam_refuses_parameters_out_of_range(parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        create("gtadam", stepsize=0.1, **parameters)
