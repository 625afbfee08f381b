"""The mesh that the tests install, as its participants' admins do."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from cluster import call, collect, commands, helm, kubectl, objects, pod, ready
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from flaremesh.deploy.targets.base import at_once
from flaremesh.provision.kits import provision
from flaremesh.provision.releases import releases
from flaremesh.topology.load import load
from flaremesh.topology.schema import Topology
from programs import lacking

EXAMPLE = Path(__file__).parents[2] / "provision" / "kubernetes-digits-ring4.yaml"
ARTIFACTS = Path(__file__).parents[2] / "build" / "e2e"
ITERATIONS = 150


class Mesh:
    """The example's mesh; its namespaces are its own.

    Args:
        folder: where it is provisioned.
        deploy: further settings of deploy.
        changes: further settings of the topology file.
    """

    def __init__(self, folder: Path, deploy: Mapping[str, Any] | None = None, **changes: Any):
        document = yaml.safe_load(EXAMPLE.read_text()) | changes
        document["run"] |= {"iterations": ITERATIONS, "peer_timeout": 15}
        document["run"]["privacy"] = {"masked_start": False}  # a simulation of the run has other masks
        # a core each, so that the pods of one node do not fight for it
        resources = {"requests": {"cpu": "100m"}, "limits": {"cpu": 1}}
        document["deploy"] = {"values": {"resources": resources}, **(deploy or {})}
        self.file = folder / "mesh.yaml"
        self.file.write_text(yaml.safe_dump(document))
        self.folder = folder / "mesh"
        self.topology: Topology = load(self.file)
        provision(self.topology, self.folder)
        self.releases = {release.name: release for release in releases(self.topology)}
        self.namespaces = {name: release.namespace for name, release in self.releases.items()}

    def release_folder(self, name: str) -> Path:
        return self.folder / "helm" / name

    def come_up(self, artifacts: Path) -> None:
        """Install all and wait until they are ready; ``artifacts`` keeps what the cluster says if not."""
        try:
            at_once(self.install, self.releases)
            at_once(self.ready, self.releases)
        except BaseException:
            collect(self.namespaces, artifacts / "installation")
            raise

    def install(self, name: str) -> None:
        """Do what the README of the participant's folder says."""
        script = commands(self.release_folder(name) / "README.md", "Install")
        call("bash", "-euo", "pipefail", "-c", script, folder=self.release_folder(name))

    def upgrade(self, name: str, *options: str) -> None:
        folder = self.release_folder(name)
        chart = folder / self.releases[name].chart
        values = [option for name in ("values", "kit", "mine") for option in ("-f", folder / f"{name}.yaml")]
        helm(self.namespaces[name], "upgrade", name, chart, *values, *options)

    def certificate(self, site: str, ends: datetime) -> Path:
        """A file of values with a certificate of the site's own that ends at some time."""
        state = json.loads((self.folder / "state" / "cert.json").read_text())
        root_key = serialization.load_pem_private_key(state["root_pri_key"].encode(), None)
        kit = self.folder / "kits" / site / "startup"
        good = x509.load_pem_x509_certificate((kit / "client.crt").read_bytes())
        begins = min(good.not_valid_before_utc, ends - timedelta(days=9))
        builder = x509.CertificateBuilder(good.issuer, good.subject, good.public_key(), good.serial_number)
        for extension in good.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        short = builder.not_valid_before(begins).not_valid_after(ends).sign(root_key, hashes.SHA256())
        pem = short.public_bytes(serialization.Encoding.PEM).decode()
        values = self.file.with_name(f"{site}-until-{ends:%Y-%m-%d}.yaml")
        values.write_text(yaml.safe_dump({"kit": {"startup": {"client.crt": pem}}}))
        return values

    def volume(self, site: str) -> tuple[str, str]:
        """The node and the folder there of a site's workspace; skips the test where the node is not here."""
        namespace = self.namespaces[site]
        claim = f"workspace-{site}-0"
        volume = kubectl(namespace, "get", "pvc", claim, "--output", "jsonpath={.spec.volumeName}")
        path = "jsonpath={.spec.hostPath.path}{.spec.local.path}"
        folder = kubectl(namespace, "get", "pv", volume, "--output", path)
        node = pod(namespace, f"{site}-0")["spec"]["nodeName"]
        if not call("docker", "ps", "--quiet", "--filter", f"name=^{node}$", check=False).strip():
            lacking("the cluster is not one of kind, whose volumes can be filled from outside", "make kind")
        return node, folder

    def ready(self, name: str) -> None:
        ready(self.namespaces[name], name)

    def start(self, command: str, *options: str, file: Path | None = None) -> subprocess.Popen[str]:
        """The command as a user calls it, in a terminal of its own."""
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "flaremesh.cli.main", command, str(file or self.file)),
                *("--target", "kubernetes", "--output", str(self.folder), *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def flaremesh(
        self, command: str, *options: str, file: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """What the command has printed in the end."""
        with self.start(command, *options, file=file) as started:
            try:
                output, errors = started.communicate(timeout=400)
            except subprocess.TimeoutExpired:
                started.kill()
                raise
        return subprocess.CompletedProcess(started.args, started.returncode, output, errors)

    def run(self, *options: str, file: Path | None = None) -> dict[str, Any]:
        """The result of a run that must finish."""
        ended = self.flaremesh("run", "--json", *options, file=file)
        assert ended.returncode == 0, ended.stderr
        return dict(json.loads(ended.stdout))

    def simulated(self) -> dict[str, dict[str, float]]:
        """Each site's metrics after the same run on one machine."""
        command = (sys.executable, "-m", "flaremesh.cli.main", "simulate", self.file, "--json")
        return dict(json.loads(call(*command))["metrics"])

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


@contextmanager
def installed(mesh: Mesh) -> Iterator[Mesh]:
    """A mesh whose pods are ready, in fresh namespaces; they are removed unless KEEP_MESH is set."""
    namespaces = sorted(set(mesh.namespaces.values()))
    call("kubectl", "delete", "namespace", *namespaces, "--ignore-not-found")
    mesh.come_up(ARTIFACTS)
    yield mesh
    if not os.environ.get("KEEP_MESH"):
        mesh.flaremesh("down")
        call("kubectl", "delete", "namespace", *namespaces, "--ignore-not-found", "--wait=false")
