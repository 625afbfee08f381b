"""A mesh of containers, driven by the command as a user drives it."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from flaremesh.deploy.targets.base import MESH_LABEL
from flaremesh.topology.schema import Deploy

IMAGE = Deploy().image
VALUES = {"heidelberg": 1.0, "bonn": 2.0, "aachen": 6.0}
LINK_PORT = 8105  # the last of the range: runs take the first ones


class ContainerMesh:
    """Sites on a path, so that its ends are no neighbours; up and down are up to the test.

    Args:
        folder: for the topology file and the mesh.
    """

    def __init__(self, folder: Path):
        self.name = f"path-{uuid.uuid4().hex[:8]}"  # others may use the engine
        self.folder = folder / "mesh"
        self._files = folder
        self.document: dict[str, Any] = {
            "apiVersion": "flaremesh/v1",
            "name": self.name,
            "server": {"host": "server.mesh.test", "org": "consortium"},
            "admins": [{"email": "admin@example.org", "org": "consortium", "role": "project_admin"}],
            "sites": [
                {
                    "name": site,
                    "org": "consortium",
                    "link": {"host": f"{site}.mesh.test", "ports": "8102-8105"},
                }
                for site in VALUES
            ],
            "graph": {"kind": "path"},
            "run": {
                "algorithm": "consensus",
                "iterations": 60,
                "links": "direct",
                "problem": {"path": "flaremesh.problems.consensus.Consensus", "args": {"values": VALUES}},
            },
        }
        self.file = self.topology()

    def topology(self, **fields: Any) -> Path:
        """The file of this mesh with other fields."""
        file = self._files / f"topology-{len(list(self._files.glob('*.yaml')))}.yaml"
        file.write_text(yaml.safe_dump(self.document | fields))
        return file

    def start(self, command: str, *options: str, **kwargs: Any) -> subprocess.Popen[str]:
        file, output = kwargs.get("file", self.file), kwargs.get("output", self.folder)
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "flaremesh.cli.main", command, str(file)),
                *("--target", "docker", "--output", str(output), *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"COLUMNS": "200"} | kwargs.get("env", {}),
        )

    def call(self, command: str, *options: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Call the command; ``file``, ``output`` and ``env`` take the place of the mesh's own."""
        with self.start(command, *options, **kwargs) as process:
            output, errors = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def run(self, *options: str) -> dict[str, Any]:
        """The result of a run that must finish."""
        ended = self.call("run", "--json", *options)
        assert ended.returncode == 0, ended.stderr
        return dict(json.loads(ended.stdout))

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.call("status", "--json").stdout))

    def container(self, participant: str) -> str:
        return f"{self.name}-{participant}"

    def python(self, participant: str, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run code in the container of a participant."""
        return engine("exec", self.container(participant), "python", "-c", code, *arguments)

    def addresses(self, participant: str) -> list[str]:
        networks = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        return engine("inspect", "--format", networks, self.container(participant)).stdout.split()

    def labelled(self, kind: str) -> list[str]:
        """The engine's objects of this mesh: ``container``, ``network`` or ``volume``."""
        everything = ["--all"] if kind == "container" else []
        mine = ("--quiet", "--filter", f"label={MESH_LABEL}={self.name}")
        return engine(kind, "ls", *everything, *mine).stdout.split()

    def remove(self) -> None:
        """Remove whatever is left of the mesh, volumes too."""
        if self.labelled("container") or self.labelled("network"):
            self.call("down")
        for volume in self.labelled("volume"):
            engine("volume", "rm", volume)


def engine(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Call ``docker``."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)


def wait_until(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
