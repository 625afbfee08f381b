import socket
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "links"))  # the certificates are those of the links' tests
from authority import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates") / "root")


@pytest.fixture(scope="session")
def foreign_authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates") / "foreign")


@pytest.fixture
def port():
    """A free one."""
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]
