"""A free port."""

from collections.abc import Iterator

import pytest

from ports import LinkPorts


@pytest.fixture
def port() -> Iterator[int]:
    """One that no other test takes."""
    claimed = LinkPorts(1, each=1)
    yield claimed.ranges[0][0]
    claimed.release()
