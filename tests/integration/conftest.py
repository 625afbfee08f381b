"""Fixtures of the tests that drive the command."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from command_mesh import Mesh, mesh_in


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh that is up."""
    with mesh_in(tmp_path_factory.mktemp("mesh"), "ring") as mesh:
        up = mesh.call("up")
        assert up.returncode == 0, up.stderr
        yield mesh


@pytest.fixture
def make_mesh(tmp_path: Path) -> Iterator[Callable[..., Mesh]]:
    """Makes further meshes, which are not up, in a folder that a shell would split."""
    folder = tmp_path / 'My #1 project\'s "mesh"'
    folder.mkdir()
    with ExitStack() as stack:
        yield lambda name, port=None: stack.enter_context(mesh_in(folder, name, port))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The end of a test that hangs: on a slow machine a mesh alone takes half a minute to come up."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(300))
