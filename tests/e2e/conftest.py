"""A mesh on the cluster of the current context."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import collect
from installed_mesh import ARTIFACTS, Mesh, installed


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh whose pods are ready."""
    with installed(Mesh(tmp_path_factory.mktemp("e2e"))) as mesh:
        yield mesh


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
