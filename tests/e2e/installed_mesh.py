"""The mesh that the tests install, as its participants' admins do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from cluster import call, commands, helm, kubectl, objects, ready

from flaremesh.provision.kits import provision
from flaremesh.provision.releases import releases
from flaremesh.topology.load import load
from flaremesh.topology.schema import Topology

EXAMPLE = Path(__file__).parents[2] / "provision" / "kubernetes-digits-ring4.yaml"
ITERATIONS = 150


class Mesh:
    """The example's mesh; its namespaces are its own."""

    def __init__(self, folder: Path):
        document = yaml.safe_load(EXAMPLE.read_text())
        document["run"] |= {"iterations": ITERATIONS, "peer_timeout": 15}
        # a core each, so that the pods of one node do not fight for it
        document["deploy"] = {"values": {"resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": 1}}}}
        self.file = folder / "mesh.yaml"
        self.file.write_text(yaml.safe_dump(document))
        self.folder = folder / "mesh"
        self.topology: Topology = load(self.file)
        provision(self.topology, self.folder)
        self.releases = {release.name: release for release in releases(self.topology)}
        self.namespaces = {name: release.namespace for name, release in self.releases.items()}

    def release_folder(self, name: str) -> Path:
        return self.folder / "helm" / name

    def install(self, name: str) -> None:
        """Do what the README of the participant's folder says."""
        script = commands(self.release_folder(name) / "README.md", "Install")
        call("bash", "-euo", "pipefail", "-c", script, folder=self.release_folder(name))

    def upgrade(self, name: str, *options: str) -> None:
        folder = self.release_folder(name)
        chart = folder / self.releases[name].chart
        values = ("-f", folder / "values.yaml", "-f", folder / "kit.yaml")
        helm(self.namespaces[name], "upgrade", name, chart, *values, *options)

    def ready(self, name: str) -> None:
        ready(self.namespaces[name], name)

    def flaremesh(
        self, command: str, *options: str, file: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The command as a user calls it."""
        return subprocess.run(
            [
                *(sys.executable, "-m", "flaremesh.cli.main", command, str(file or self.file)),
                *("--target", "kubernetes", "--output", str(self.folder), *options),
            ],
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    def run(self, *options: str) -> dict[str, Any]:
        """The result of a run that must finish."""
        ended = self.flaremesh("run", "--json", *options)
        assert ended.returncode == 0, ended.stderr
        return dict(json.loads(ended.stdout))

    def restarts(self) -> dict[str, int]:
        """How often each pod's container was started again."""
        return {
            name: objects(namespace, "pods", "--selector", f"flaremesh.dev/participant={name}")[0]["status"][
                "containerStatuses"
            ][0]["restartCount"]
            for name, namespace in self.namespaces.items()
        }

    def uids(self) -> dict[str, str]:
        """The pods' identities."""
        return {
            name: kubectl(namespace, "get", "pod", f"{name}-0", "--output", "jsonpath={.metadata.uid}")
            for name, namespace in self.namespaces.items()
        }
