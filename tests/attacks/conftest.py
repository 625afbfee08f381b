"""Every attack ends in bounded time, whatever it does to the mesh."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "packages"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(180))
