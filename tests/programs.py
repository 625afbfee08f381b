"""What tests need of the machine."""

import os
import shutil
from typing import NoReturn

import pytest


def lacking(reason: str) -> NoReturn:
    """Skip the test; in CI, which has all there is, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def program(name: str) -> str:
    """Path of ``prometheus`` or ``promtool``; without it the test is skipped, and fails in CI."""
    path = shutil.which(name)
    if path is None:
        lacking(f"{name} is not on the PATH: run tests/install-tools")
    return path
