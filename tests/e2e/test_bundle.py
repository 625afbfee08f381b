"""A bundle suffices to install a site."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import yaml
from cluster import call, commands, helm, pod
from installed_mesh import Mesh

from programs import lacking, program

BUNDLED = "flaremesh:bundled"  # a name that no node knows


def test_a_site_is_installed_from_its_bundle_alone(mesh: Mesh, tmp_path: Path):
    namespace = mesh.namespaces["dresden"]
    node = pod(namespace, "dresden-0")["spec"]["nodeName"]
    if not call("docker", "ps", "--quiet", "--filter", f"name=^{node}$", check=False).strip():
        lacking("the cluster is not one of kind, onto whose nodes the test brings an image", "make kind")
    document = yaml.safe_load(mesh.file.read_text())
    call("docker", "tag", mesh.topology.deploy.image, BUNDLED)
    document["deploy"]["image"] = BUNDLED
    file = tmp_path / "mesh.yaml"
    file.write_text(yaml.safe_dump(document))
    # the mesh's own keys, in a folder of their own
    (tmp_path / "mesh").mkdir()
    call("cp", "-r", mesh.folder / "state", mesh.folder / "kits", tmp_path / "mesh")
    call(program("minisign"), "-G", "-W", "-p", tmp_path / "mine.pub", "-s", tmp_path / "mine.key")
    subprocess.run(
        [
            *(sys.executable, "-m", "flaremesh.cli.main"),
            "bundle",
            str(file),
            "dresden",
            *("--output", str(tmp_path / "mesh")),
            *("--sign", str(tmp_path / "mine.key")),
        ],
        check=True,
    )
    bundle = tmp_path / "mesh/bundles/dresden.tar"
    call(program("minisign"), "-Vm", bundle, "-p", tmp_path / "mine.pub")
    with tarfile.open(bundle) as archive:
        archive.extractall(tmp_path / "site", filter="data")
    folder = tmp_path / "site" / "dresden"
    call("sha256sum", "--check", "SHA256SUMS", folder=folder)
    names = {part["name"] for part in json.loads((folder / "image.cdx.json").read_text())["components"]}
    assert {"flaremesh", "nvflare", "torch"} <= names
    helm(namespace, "uninstall", "dresden", "--wait", "--cascade", "foreground")
    with (folder / "image.tar").open("rb") as image:
        importing = (
            "docker",
            "exec",
            "--interactive",
            node,
            "ctr",
            "--namespace",
            "k8s.io",
            "images",
            "import",
        )
        subprocess.run([*importing, "--digests", "-"], stdin=image, check=True)
    script = commands(folder / "README.md", "Install").partition("helm install")
    call("bash", "-euo", "pipefail", "-c", "".join(script[1:]), folder=folder)
    mesh.ready("dresden")
    assert pod(namespace, "dresden-0")["spec"]["containers"][0]["image"] == BUNDLED
    assert mesh.run("--iterations", "5")["outcome"] == "finished"
    mesh.upgrade("dresden")  # to the image that the other tests expect
    mesh.ready("dresden")
