"""Code written for nvflare.app_opt.p2p finds here what it knows, or the document says what is different."""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from pathlib import Path
from types import FunctionType

import nvflare.app_opt.p2p as stock
import pytest

import flaremesh.p2p as ours

DOCUMENT = Path(__file__).parents[3] / "docs" / "from-nvflare-p2p.md"
MODULES = sorted(module.name for module in pkgutil.walk_packages(stock.__path__, f"{stock.__name__}."))


def counterpart(name):
    return ours.__name__ + name.removeprefix(stock.__name__)


def told():
    """The names that the document's tables put between backticks, in their first column."""
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])}


def own_names(module):
    """The public names that a module of the stock package defines, or that a package hands on."""
    home = stock.__name__ if hasattr(module, "__path__") else module.__name__
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith(home)
    }


def definitions(kind):
    """Every public class or function of the stock package, where it is defined."""
    for module in map(importlib.import_module, MODULES):
        for name, value in own_names(module).items():
            if value.__module__ == module.__name__ and isinstance(value, kind):
                yield pytest.param(value, id=name)


def bases(cls, package):
    return [base for base in cls.__mro__ if base.__module__.startswith(package.__name__)]


def attributes(cls, package):
    """What instances have: class attributes and all that the methods assign to self."""
    for base in bases(cls, package):
        yield from (name for name in vars(base) if not name.startswith("__"))
        yield from getattr(base, "__dataclass_fields__", ())
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(base)))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                yield node.attr


def parameters(function):
    return [
        parameter for parameter in inspect.signature(function).parameters.values() if parameter.name != "self"
    ]


def ours_of(value):
    return getattr(importlib.import_module(counterpart(value.__module__)), value.__name__)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_is_there_with_its_names(name):
    module = importlib.import_module(counterpart(name))
    missing = own_names(importlib.import_module(name)).keys() - vars(module).keys()
    assert missing <= told()


@pytest.mark.parametrize("theirs", list(definitions(type)))
def test_every_attribute_is_there_or_told(theirs):
    missing = set(attributes(theirs, stock)) - set(attributes(ours_of(theirs), ours)) - {"_abc_impl"}
    assert {name for name in missing if f"{theirs.__name__}.{name}" not in told()} == set()


def functions():
    for parameter in definitions(type):
        cls = parameter.values[0]
        for name, value in vars(cls).items():
            if inspect.isfunction(value) and (name == "__init__" or not name.startswith("__")):
                yield pytest.param(cls, name, id=f"{cls.__name__}.{name}")


@pytest.mark.parametrize(("cls", "name"), list(functions()))
def test_every_method_takes_what_it_took_in_the_same_order(cls, name):
    label = cls.__name__ if name == "__init__" else f"{cls.__name__}.{name}"
    expected = parameters(getattr(cls, name))
    if name == "__init__" and [p.name for p in expected[-2:]] == ["args", "kwargs"]:
        expected[-2:] = parameters(super(cls, cls).__init__)  # who gets them
    assert_takes(getattr(ours_of(cls), name), expected, label)


@pytest.mark.parametrize("theirs", list(definitions(FunctionType)))
def test_every_function_takes_what_it_took_in_the_same_order(theirs):
    assert_takes(ours_of(theirs), parameters(theirs), theirs.__name__)


def assert_takes(function, expected, label):
    """Same parameters, same places, same defaults; more only behind them, and optional."""
    found = parameters(function)
    for place, parameter in enumerate(expected):
        if [p.kind for p in found[place:]] == [parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD]:
            break  # whatever comes
        if f"{label}({parameter.name})" in told():
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            assert any(other.kind is parameter.kind for other in found), f"{label} takes no other keywords"
            continue
        assert place < len(found), f"{label} does not take {parameter.name}"
        assert found[place].kind is parameter.kind, (
            f"{label} takes {found[place]} in the place of {parameter}"
        )
        assert found[place].name == parameter.name
        assert found[place].default == parameter.default, f"{label}({parameter.name}) has another default"
    for parameter in found[len(expected) :]:
        assert parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or (
            parameter.default is not parameter.empty
        ), f"{label} needs {parameter.name}"


def test_the_names_that_the_document_says_are_taken_are_methods_of_the_executors():
    (listed,) = re.findall(r"own methods with a leading underscore \(([^)]*)\)", DOCUMENT.read_text())
    methods = set(dir(importlib.import_module("flaremesh.p2p.executors").ConsensusExecutor))
    names = set(re.findall(r"`(\w+)`", listed))
    assert names
    assert names <= methods


def test_the_document_tells_of_nothing_that_the_stock_package_does_not_have():
    known = {counterpart(name).removeprefix(f"{ours.__name__}.") for name in MODULES}
    for parameter in [*definitions(type), *definitions(FunctionType)]:
        value = parameter.values[0]
        known.add(value.__name__)
        if isinstance(value, type):
            known |= {f"{value.__name__}.{name}" for name in attributes(value, stock)}
            methods = dict(inspect.getmembers(value, inspect.isfunction))
            for name, method in methods.items():
                label = value.__name__ if name == "__init__" else f"{value.__name__}.{name}"
                known |= {f"{label}({p.name})" for p in parameters(method)}
        else:
            known |= {f"{value.__name__}({p.name})" for p in parameters(value)}
    shaped = {name for name in told() if re.fullmatch(r"[A-Z]\w*[.(]\S+", name)}
    assert shaped <= known
