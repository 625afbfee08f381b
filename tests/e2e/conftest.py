"""A mesh on the cluster of the current context."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import call, collect
from installed_mesh import Mesh

ARTIFACTS = Path(__file__).parents[2] / "build" / "e2e"


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh whose pods are ready."""
    mesh = Mesh(tmp_path_factory.mktemp("e2e"))
    _clear(mesh)
    mesh.come_up(ARTIFACTS)
    yield mesh
    if not os.environ.get("KEEP_MESH"):
        mesh.flaremesh("down")
        _clear(mesh, "--wait=false")


def _clear(mesh: Mesh, *options: str) -> None:
    namespaces = sorted(set(mesh.namespaces.values()))
    call("kubectl", "delete", "namespace", *namespaces, "--ignore-not-found", *options)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    """Keep what the cluster says of a test that failed."""
    report = yield
    if report.failed and "mesh" in getattr(item, "funcargs", {}):
        folder = ARTIFACTS / item.name
        collect(item.funcargs["mesh"].namespaces, folder)
        report.sections.append(("cluster", f"descriptions, logs and events are in {folder}"))
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pods take their time."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(400))
