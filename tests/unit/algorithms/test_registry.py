"""How algorithms are found by name, and how mistakes in their parameters are told."""

import pkgutil
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from flaremesh import algorithms
from flaremesh.algorithms import Weights, algorithm_class, configured, create, names, register
from flaremesh.class_path import ClassPathError
from flaremesh.topology.schema import Run

WITH_A_STEP = [
    name for name in names() if "stepsize" in {field.name for field in fields(algorithm_class(name))}
]


def test_the_algorithms_that_the_documentation_speaks_of_are_there():
    assert {"consensus", "dgd", "dgd-atc", "dgd-cta", "gtadam", "push-sum", "sgp"} < set(names())
    assert {"gradient-tracking", "gradient-tracking-atc", "extra", "exact-diffusion"} < set(names())
    assert {"k-gt", "led", "local-dgd", "momentum-tracking", "quasi-global-momentum"} < set(names())
    assert {"beer", "lead", "nids", "noloco", "push-diging", "push-pull"} < set(names())


def test_those_for_directed_graphs_run_on_column_stochastic_weights():
    directed = {name for name in names() if algorithm_class(name).weights is Weights.COLUMN_STOCHASTIC}
    assert directed == {"push-diging", "push-pull", "push-sum", "robust-push-sum", "sgp"}


def test_an_unknown_algorithm_is_answered_with_the_known_ones():
    with pytest.raises(KeyError, match=r"unknown algorithm 'adam'; known are beer, consensus, dgd"):
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
@pytest.mark.parametrize("name", WITH_A_STEP)
def test_a_stepsize_is_a_positive_number(name, stepsize):
    with pytest.raises(ValueError, match="stepsize must be positive and finite"):
        create(name, stepsize=stepsize)


@pytest.mark.parametrize("local_steps", [0, -1, 1.5, True, "20"])
@pytest.mark.parametrize("name", ["local-dgd", "k-gt", "noloco"])
def test_local_steps_are_a_whole_number(name, local_steps):
    with pytest.raises(ValueError, match="local_steps must be a whole number from 1 on"):
        create(name, stepsize=0.1, local_steps=local_steps)


@pytest.mark.parametrize("parameters", [{"beta1": 1}, {"beta2": -0.1}, {"epsilon": 0}, {"G": -1}])
def test_gtadam_refuses_parameters_out_of_range(parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        create("gtadam", stepsize=0.1, **parameters)


def test_every_module_of_the_package_is_imported_and_none_is_named():
    modules = {f"flaremesh.algorithms.{module.name}" for module in pkgutil.iter_modules(algorithms.__path__)}
    assert modules <= sys.modules.keys()
    text = Path(algorithms.__file__).read_text()
    assert not [name for name in modules if f" {name.rpartition('.')[2]}," in text]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("flaremesh.algorithms.registry.create", "has no class create"),
        (
            "flaremesh.algorithms.registry.Callable",
            "is the class collections.abc.Callable of another module",
        ),
        ("flaremesh.algorithms.dgd.DgdState", "is no algorithm"),
        ("algorithms_of_mine.Silent", r"does not say its exchanges, such as exchanges = \(Exchange\(\),\)"),
        ("algorithms_of_mine.Unsure", "does not say its exchanges"),
        ("os.system", "has no class system"),
    ],
)
def test_a_path_that_leads_to_no_algorithm_of_that_package_is_refused(path, message, tmp_path, monkeypatch):
    (tmp_path / "algorithms_of_mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from flaremesh.algorithms import Weights\n"
        "@dataclass\n"
        "class Silent:\n"
        "    weights = Weights.DOUBLY_STOCHASTIC\n"
        "class Unsure(Silent):\n"
        "    @property\n"
        "    def exchanges(self): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ClassPathError, match=message):
        algorithm_class(path)


def test_an_option_that_is_a_field_of_the_run_is_refused():
    run = Run.model_validate(
        {
            "algorithm": "dgd",
            "iterations": 3,
            "stepsize": 0.1,
            "options": {"iterations": 5},
            "problem": {"path": "flaremesh.problems.consensus.Consensus"},
        }
    )
    with pytest.raises(TypeError, match="iterations stands beside the options"):
        configured(run)
