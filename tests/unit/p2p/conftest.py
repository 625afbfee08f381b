"""What the tests of executors share."""

import pytest
from connected_sites import Sites


@pytest.fixture
def connect(tmp_path):
    made = []

    def connect(network, executors, **extra):
        made.append(Sites(tmp_path, network, executors, **extra))
        return made[-1]

    yield connect
    for sites in made:
        sites.close()
