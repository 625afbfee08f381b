"""Programs that tests call."""

import os
import shutil

import pytest


def program(name: str) -> str:
    """Path of ``prometheus`` or ``promtool``; without it the test is skipped, and fails in CI."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not on the PATH: run tests/install-tools"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path
