"""Certificates of a mesh's root, and of another one's; a file system that can be full."""

from collections.abc import Iterator

import pytest
from authority import Authority
from meeting_place import MeetingPlace

from volume import Volume
from volume import volume as mounted


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates") / "root")


@pytest.fixture(scope="session")
def foreign_authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates") / "foreign")


@pytest.fixture
def place(authority):
    """A meeting point."""
    place = MeetingPlace(authority)
    yield place
    place.close()


@pytest.fixture
def volume(tmp_path_factory) -> Iterator[Volume]:
    """A file system of a MiB."""
    with mounted(tmp_path_factory.mktemp("volume"), 1024) as volume:
        yield volume
