"""One archive with all that a participant's admin needs where there is no internet."""

import json
import shutil
import tarfile
import tempfile
from pathlib import Path

from docker.errors import DockerException, ImageNotFound

from flaremesh import atomic
from flaremesh.checksum import sha256
from flaremesh.deploy.bill_of_materials import bill_of_materials
from flaremesh.deploy.minisign import SecretKey, signature_of
from flaremesh.deploy.targets.base import DeployError
from flaremesh.deploy.targets.docker.engine import engine
from flaremesh.provision.releases import Release, release_folder, values_of
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import Topology

IMAGE, BILL, CHECKSUMS, FIRST_STEPS = "image.tar", "image.cdx.json", "SHA256SUMS", "FIRST.md"
_SAVE_SECONDS = 600.0

_STEPS = """# {name} without internet

    sha256sum --check {checksums}

What is in the image says `{bill}`, in CycloneDX.

Bring the image `{image}` into the cluster, on every node that may run the pod or into your registry:

    docker load --input {archive}                                    # a Docker engine, to push from there
    ctr --namespace k8s.io images import {archive}                   # a node with containerd

With a registry of your own, name it in a file `mine.yaml`:

    image: {{repository: registry.example.org/flaremesh}}

Then do what README.md says.
"""


def bundle(topology: Topology, mesh: Path, release: Release, signer: SecretKey | None = None) -> Path:
    """Write ``mesh/bundles/<participant>.tar``: image, its SBOM, chart, values, kit, README and checksums.

    The archive holds the participant's private key, and only its owner may read it.

    Args:
        topology: the mesh.
        mesh: folder of the provisioned mesh.
        release: the participant's.
        signer: signs the archive; the signature is ``<participant>.tar.minisig``.

    Raises:
        ReleaseError: the mesh was provisioned without releases.
        DeployError: there is no Docker engine, or no image.
    """
    source = release_folder(mesh, release.name)
    image = values_of(topology, build(topology), release.name).image.name
    archive = mesh / "bundles" / f"{release.name}.tar"
    archive.parent.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".bundle-") as scratch:
        folder = Path(scratch) / release.name
        shutil.copytree(source, folder)
        _save(image, folder / IMAGE)
        (folder / BILL).write_text(json.dumps(bill_of_materials(image), indent=2) + "\n")
        steps = _STEPS.format(name=release.name, checksums=CHECKSUMS, image=image, archive=IMAGE, bill=BILL)
        (folder / FIRST_STEPS).write_text(steps)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        lines = [f"{sha256(path)}  {path.relative_to(folder)}\n" for path in files]
        (folder / CHECKSUMS).write_text("".join(lines))
        partial = Path(scratch) / archive.name
        partial.touch(mode=0o600)
        with tarfile.open(partial, "w") as bundled:
            bundled.add(folder, arcname=release.name)
        signature_of(archive).unlink(missing_ok=True)  # of the archive that was there before
        atomic.move(partial, archive)
    if signer:
        signer.sign(archive)
    return archive


def _save(image: str, path: Path) -> None:
    try:
        found = engine(timeout=_SAVE_SECONDS).images.get(image)
        with path.open("wb") as file:
            for block in found.save(named=image):
                file.write(block)
    except ImageNotFound:
        raise DeployError(
            f"the Docker engine here has no image {image}: `make images` builds it, `docker pull` fetches it"
        ) from None
    except DockerException as error:
        raise DeployError(f"the image {image} cannot be saved: {error}") from None
