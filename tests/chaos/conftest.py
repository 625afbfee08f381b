"""Fixtures of the tests that disturb runs."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "integration"))  # for running_mesh

from running_mesh import RunningMesh, running_mesh
from suite import SEED, Suite
from table import Table

MESH = Path(__file__).parent / "mesh.yaml"
TABLE = Path(__file__).parents[2] / "build" / "chaos"


def pytest_report_header() -> str:
    return f"the faults are those of CHAOS_SEED={SEED}"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    with running_mesh(tmp_path_factory.mktemp("mesh"), MESH) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def suite(mesh: RunningMesh) -> Suite:
    return Suite(mesh, Table(TABLE))


@pytest.fixture
def bounded_suite(mesh: RunningMesh, tmp_path: Path) -> Suite:
    """Beside other tests, which make recoveries slower."""
    return Suite(mesh, Table(tmp_path), timed=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The end of a test that hangs in spite of its own limits."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))
