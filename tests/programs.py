"""Programs that tests need on the machine; a test that lacks one is skipped with the remedy."""

import os
import shutil
from typing import NoReturn

import pytest

from bench.wan import namespaces

PROGRAMS = {
    "prometheus": "tests/install-tools",
    "promtool": "tests/install-tools",
    "ss": "tests/install-tools",
    "minisign": "tests/install-tools",
    "helm": "curl -fsSL https://raw.githubusercontent.com/helm/helm/main/scripts/get-helm-3 | bash",
}
"""What puts them on the PATH."""

OPERATOR_BUNDLE = (
    "https://github.com/prometheus-operator/prometheus-operator/releases/download/v0.85.0/bundle.yaml"
)
"""The Prometheus Operator, its definitions among it."""


def lacking(what: str, remedy: str, *, ci_has_it: bool = True) -> NoReturn:
    """Skip the test; in CI, unless it does without, fail it.

    Args:
        what: what is not here.
        remedy: the command that brings it.
        ci_has_it: whether it is a mistake that it is not there.
    """
    reason = f"{what}; this brings it: {remedy}"
    if ci_has_it and os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def engine_lacking(error: Exception | str = "") -> NoReturn:
    """Skip the test, or in CI fail it, because no Docker engine answers."""
    lacking(f"no Docker engine answers{f': {error}' if error else ''}", "sudo systemctl start docker")


def own_networks() -> None:
    """Skip the test where network namespaces with TUN devices cannot be made."""
    if reason := namespaces.unavailable():
        remedy = "run the tests as root, or unshare --user --map-root-user make test"
        lacking(f"networks of its own cannot be made here: {reason}", remedy, ci_has_it=False)


def program(name: str) -> str:
    """Path of one of ``PROGRAMS``; without it the test is skipped, and fails in CI."""
    path = shutil.which(name)
    if path is None:
        lacking(f"{name} is not on the PATH", PROGRAMS[name])
    return path
