"""Each name of NVFlare that flaremesh uses is there, and takes what flaremesh passes."""

import inspect

import pytest
from flaremesh_source import assigned, imports, members
from nvflare_surface import ATTRIBUTES, CALLS, COMPONENT_CALLS, DOCUMENTED, NAMES, named

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_KEYWORD = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_CONTRACT = {
    *CALLS,
    *NAMES,
    *ATTRIBUTES,
    *(f"{owner}.{name}" for owner in NAMES for name in NAMES[owner].split()),
}


@pytest.mark.parametrize("path", COMPONENT_CALLS | CALLS)
def test_nvflare_takes_the_arguments_that_flaremesh_passes(path):
    signature = inspect.signature(named(path))
    parameters = list(signature.parameters.values())
    call = (COMPONENT_CALLS | CALLS)[path]
    what = f"{path} changed to {signature}; flaremesh calls it with ({call})"
    given = call.split()
    positional = [name for name in given if not name.endswith("=")]
    by_keyword = {name[:-1] for name in given if name.endswith("=")}
    assert [p.name for p in parameters if p.kind in _POSITIONAL][: len(positional)] == positional, what
    assert by_keyword <= {p.name for p in parameters if p.kind in _BY_KEYWORD}, what
    required = {
        p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    assert required <= {*positional, *by_keyword}, f"{what}; now required as well"


@pytest.mark.parametrize(
    "path", [f"{owner}.{name}" for owner, names in NAMES.items() for name in names.split()]
)
def test_nvflare_has_the_names_that_flaremesh_reads(path):
    named(path)


@pytest.mark.parametrize("path", ATTRIBUTES)
def test_nvflares_objects_have_the_attributes_that_flaremesh_uses(path):
    gone = set(ATTRIBUTES[path].split()) - assigned(named(path))
    assert not gone, f"{path} no longer sets {', '.join(sorted(gone))}"


@pytest.mark.parametrize(
    "path", sorted({f"{found.module}.{found.name}".rstrip(".") for found in imports()} | set(members()))
)
def test_what_flaremesh_imports_of_nvflare_and_reads_of_it_is_there(path):
    named(path)


def test_whatever_flaremesh_imports_of_nvflare_is_documented_or_under_contract():
    stray = {
        f"{module}.{name} ({where})"
        for module, name, where in imports()
        if module not in DOCUMENTED
        if not any(
            entry == f"{module}.{name}" or entry.startswith(f"{module}.{name}.") for entry in _CONTRACT
        )
    }
    assert not stray, f"without a line in nvflare_surface.py: {', '.join(sorted(stray))}"
