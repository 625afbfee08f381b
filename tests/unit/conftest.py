"""Certificates of a mesh's root, and of another one's."""

import pytest
from authority import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates") / "root")


@pytest.fixture(scope="session")
def foreign_authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates") / "foreign")
