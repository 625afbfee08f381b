"""Provisioned meshes and rendered charts."""

from pathlib import Path
from typing import Any

import pytest
from installation import NAMES, Installation, every_option_of

from flaremesh.provision.kits import provision
from flaremesh.topology.load import load

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def one_cluster(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return _provisioned("kubernetes-digits-ring4", tmp_path_factory)


@pytest.fixture(scope="session")
def two_clusters(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return _provisioned("two-clusters", tmp_path_factory)


@pytest.fixture(params=NAMES)
def chart(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def every_option(chart: str) -> dict[str, Any]:
    return every_option_of(chart)


@pytest.fixture
def site() -> dict[str, Any]:
    """The least values of a site."""
    return {
        "name": "bonn",
        "mesh": "ring",
        "kit": {"startup": {"client.key": "secret"}, "local": {"resources.json": "{}"}},
        "server": {"name": "server", "namespace": "ring-server", "firstPort": 8002, "lastPort": 8002},
    }


def _provisioned(topology: str, folders: pytest.TempPathFactory) -> Installation:
    folder = folders.mktemp(topology)
    provision(load(REPOSITORY / f"provision/{topology}.yaml"), folder)
    return Installation(folder)
