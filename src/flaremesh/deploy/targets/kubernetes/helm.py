"""Helm releases: what is installed, and with which values."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from flaremesh.deploy.targets.base import DeployError
from flaremesh.deploy.targets.kubernetes.commands import call
from flaremesh.provision.releases import OWN_VALUES, VALUES, Release

AT_ONCE = 8
"""The most helm processes at a time; each takes a core and a hundred megabytes."""

UNINSTALL_SECONDS = 120
"""A release and its pods must be gone within this time."""


def installed_chart(release: Release) -> str | None:
    """Chart and version of what is installed under the release's name, None where nothing is."""
    only = ("--namespace", release.namespace, "--filter", f"^{release.name}$")
    found = json.loads(_helm("list", *only, "--output", "json"))
    return str(found[0]["chart"]) if found else None


def install(release: Release, folder: Path, *values: str) -> None:
    """Install or upgrade a release.

    Args:
        release: the release.
        folder: its folder, with chart and files of values.
        values: names of these files; later ones override earlier ones, and missing ones are left out.

    Raises:
        DeployError: helm fails; the message is helm's.
    """
    files = [folder / name for name in values if (folder / name).exists()]
    _helm(
        *("upgrade", "--install", release.name, str(folder / release.chart)),
        *("--namespace", release.namespace),
        *(option for file in files for option in ("-f", str(file))),
    )


def uninstall(release: Release) -> None:
    """Uninstall a release, if it is there.

    Raises:
        DeployError: helm fails; the message is helm's.
    """
    options = ("--ignore-not-found", "--wait", "--timeout", f"{UNINSTALL_SECONDS}s")
    _helm("uninstall", release.name, "--namespace", release.namespace, *options)


def check_takeover(release: Release, chart: str, folder: Path) -> None:
    """Check that a release that watches meshes may be upgraded to what is in ``folder``.

    Args:
        release: the release.
        chart: chart and version of what is installed under its name.
        folder: its folder, with chart and files of values.

    Raises:
        DeployError: what is installed is of another chart, or watches a mesh that it would lose.
    """
    if not re.fullmatch(rf"{release.chart}-\d.*", chart):
        raise DeployError(
            f"the namespace {release.namespace} has a release {release.name} of the chart {chart}: name "
            "another namespace in deploy.monitoring"
        )
    installed = json.loads(
        _helm("get", "values", release.name, "--namespace", release.namespace, "--output", "json")
    )
    given: dict[str, Any] = {}
    for file in (folder / VALUES, folder / OWN_VALUES):
        try:
            given |= yaml.safe_load(file.read_bytes()) or {} if file.exists() else {}
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise DeployError(f"{file} holds no values: {' '.join(str(error).split())}") from None
    if lost := sorted(set(installed["meshes"]).difference(given["meshes"])):
        raise DeployError(
            f"the release {release.name} in the namespace {release.namespace} also watches "
            f"{', '.join(lost)}: list the meshes and the namespaces of all in {folder / OWN_VALUES}, "
            "as `meshes: [...]` and `namespaces: [...]`"
        )


def _helm(*arguments: str) -> str:
    ended = call("helm", *arguments, output=subprocess.PIPE)
    if ended.returncode:
        raise DeployError(f"helm {arguments[0]} failed: {ended.stderr.decode(errors='replace').strip()}")
    return str(ended.stdout.decode())
