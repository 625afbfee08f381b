"""The engine, and meshes on it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_mesh import IMAGE, ContainerMesh, engine

from programs import engine_lacking, lacking


@pytest.fixture(scope="session", autouse=True)
def _an_engine_with_the_image() -> None:
    if shutil.which("docker") is None or engine("info").returncode:
        engine_lacking()
    if engine("image", "inspect", IMAGE).returncode:
        lacking(f"the Docker engine has no image {IMAGE}", "make images")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerMesh]:
    """A mesh that is up."""
    mesh = ContainerMesh(tmp_path_factory.mktemp("mesh"))
    try:
        up = mesh.call("up")
        assert up.returncode == 0, up.stderr
        yield mesh
    finally:
        mesh.remove()


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[ContainerMesh]:
    """A mesh that is not up."""
    mesh = ContainerMesh(tmp_path)
    try:
        yield mesh
    finally:
        mesh.remove()
