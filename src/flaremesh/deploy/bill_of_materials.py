"""What is in an image, as a CycloneDX document."""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from docker.errors import ContainerError, ImageNotFound

from flaremesh.deploy.targets.base import DeployError
from flaremesh.deploy.targets.docker.engine import engine, refusals

_SECONDS = 600.0

_DISTRIBUTIONS = """
import importlib.metadata, json
print(json.dumps([
    [d.name, d.version, d.metadata.get("License-Expression"), d.metadata.get("License")]
    for d in importlib.metadata.distributions()
]))
"""


def bill_of_materials(name: str, hashes: Mapping[tuple[str, str], str] | None = None) -> dict[str, Any]:
    """What is in an image, as a CycloneDX document: its Python distributions and Debian packages.

    Both are listed by the image's own tools in a container, so that the document says what is really there.

    Args:
        name: of an image that this machine's engine has.
        hashes: canonical name and version of a distribution -> SHA-256 of the file it was installed from.

    Raises:
        DeployError: there is no Docker engine, no such image, or it cannot be run.
    """
    python = json.loads(printed(name, ["python", "-c", _DISTRIBUTIONS]))
    debian = printed(
        name, ["dpkg-query", "--show", "--showformat", r"${Package} ${Version} ${Architecture}\n"]
    )
    components = [_python_component(*about, hashes=hashes or {}) for about in python]
    components += [_debian_component(*line.split()) for line in debian.decode().splitlines()]
    with refusals(name):
        digest = engine().images.get(name).id.removeprefix("sha256:")
    repository, _, tag = name.rpartition(":")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid4().urn,
        "version": 1,
        "metadata": {
            "timestamp": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "component": {
                "type": "container",
                "bom-ref": "image",
                "name": repository,
                "version": tag,
                "hashes": [{"alg": "SHA-256", "content": digest}],
            },
        },
        "components": sorted(components, key=lambda component: component["bom-ref"]),
    }


def _python_component(
    name: str,
    version: str,
    expression: str | None,
    text: str | None,
    *,
    hashes: Mapping[tuple[str, str], str],
) -> dict[str, Any]:
    component = _component(name, version, f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version)}")
    if digest := hashes.get((re.sub(r"[-_.]+", "-", name).lower(), version)):
        component["hashes"] = [{"alg": "SHA-256", "content": digest}]
    if expression:
        component["licenses"] = [{"expression": expression}]
    elif text and "\n" not in text:  # some distributions have the whole licence there
        component["licenses"] = [{"license": {"name": text}}]
    return component


def _debian_component(name: str, version: str, architecture: str) -> dict[str, Any]:
    return _component(name, version, f"pkg:deb/debian/{name}@{quote(version, safe=':')}?arch={architecture}")


def _component(name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def printed(image: str, command: Sequence[str], user: str | None = None) -> bytes:
    """What a command prints in a new container of an image.

    Raises:
        DeployError: there is no Docker engine, no such image, or the command fails.
    """
    with refusals(image):
        try:
            run = engine(_SECONDS).containers.run
            return bytes(
                run(image, command[1:], entrypoint=command[:1], user=user, remove=True, stderr=False)
            )
        except ImageNotFound:
            raise DeployError(f"there is no image {image}, here or in its registry") from None
        except ContainerError as error:
            said = bytes(error.stderr or b"").decode(errors="replace").strip()
            raise DeployError(f"{command[0]} fails in {image}: {said}") from None
