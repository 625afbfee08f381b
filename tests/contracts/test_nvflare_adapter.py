"""Only flaremesh.p2p.nvflare knows how NVFlare works inside."""

import subprocess
import sys

import pytest
from flaremesh_source import (
    ADAPTER,
    attributes_outside,
    defined_outside,
    imports,
    inherited,
    members,
    texts_outside,
)
from nvflare_surface import ATTRIBUTES, CALLS, COMPONENT_API, COMPONENT_CALLS, FILES, PUBLIC_KEYS

COMPONENTS = ("p2p/agents/", "p2p/controllers/", "p2p/executors/")
AMBIGUOUS = {"body", "client", "clone", "join"}  # of a syntax tree, a task, a tensor and a text, too

WITH_TORCH = {"__init__", "script_process"}  # a script's own process has what it trains with
MODULES = sorted(
    f"flaremesh.p2p.nvflare.{path.stem}" for path in ADAPTER.glob("*.py") if path.stem not in WITH_TORCH
)


def test_outside_of_the_adapter_only_components_import_nvflare():
    strays = {found.file for found in imports(outside=True) if not found.file.startswith(COMPONENTS)}
    assert not strays, f"{', '.join(sorted(strays))} should call flaremesh.p2p.nvflare instead"


def test_components_import_only_what_nvflare_documents_for_them():
    strays = {
        f"{found.module}.{found.name} ({found.file})"
        for found in imports(outside=True)
        if found.module not in COMPONENT_API
    }
    assert not strays, f"only flaremesh.p2p.nvflare may import {', '.join(sorted(strays))}"


def test_nothing_outside_of_the_adapter_uses_a_method_or_an_attribute_of_nvflares_inner_objects():
    inner = {path.rpartition(".")[2] for path in CALLS} | {
        name for names in ATTRIBUTES.values() for name in names.split()
    }
    documented = {path.rpartition(".")[2] for path in COMPONENT_CALLS}
    inner -= documented | defined_outside() | AMBIGUOUS
    assert {"get_engine", "get_cell", "core_cell", "abort_app", "update_meta", "token"} <= inner
    strays = {f"{name} ({', '.join(where)})" for name, where in attributes_outside().items() if name in inner}
    assert not strays, f"only flaremesh.p2p.nvflare may use {', '.join(sorted(strays))}"


def test_components_read_of_a_context_only_what_nvflare_documents():
    keys = {path for path in members(outside=True) if "Key." in path}
    assert keys >= PUBLIC_KEYS, f"no longer used: {', '.join(sorted(PUBLIC_KEYS - keys))}"
    assert keys <= PUBLIC_KEYS, f"only flaremesh.p2p.nvflare may read {', '.join(sorted(keys - PUBLIC_KEYS))}"


def test_nothing_outside_of_the_adapter_names_a_module_or_a_settings_file_of_nvflares():
    strays = {
        f"{text!r} ({', '.join(where)})"
        for text, where in texts_outside().items()
        if text in FILES or text.startswith("nvflare.private.")
    }
    assert not strays, f"only flaremesh.p2p.nvflare may name {', '.join(sorted(strays))}"


def test_what_components_inherit_and_use_of_nvflares_base_classes_is_under_contract():
    strays = {f"{path} ({who})" for path, who in inherited().items() if path not in COMPONENT_CALLS | CALLS}
    assert not strays, f"without a line in nvflare_surface.py: {', '.join(sorted(strays))}"


@pytest.mark.parametrize("module", MODULES)
def test_the_adapter_imports_no_torch(module):
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", ["processes", "startup"])
def test_what_looks_for_processes_and_files_does_not_wait_for_nvflare(module):
    code = f"import flaremesh.p2p.nvflare.{module}, sys; sys.exit('nvflare' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
