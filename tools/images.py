"""Builds the container images with any Docker engine, and lists what is in them.

``python -m tools.images wheels cpu`` gathers what the image is made of, and is the only part that
needs the network; ``python -m tools.images build cpu`` builds. `make images` does both.
"""

import argparse
import json
import subprocess
import sys
import uuid
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from docker.errors import APIError, ContainerError, ImageNotFound

from flaremesh import __version__
from flaremesh.deploy.targets.docker.engine import engine as docker_engine
from flaremesh.errors import FlaremeshError

DOCKERFILE: Final = Path("images/Dockerfile")
PYTHON_IMAGE: Final = "python:3.11-slim-bookworm"
"""The base image."""

_WHEELS = Path("build/wheels")
_SBOMS = Path("build/images")

# in base64, because the engine's log of a container is text
_FETCH_TINI = "cd /tmp && apt-get -qq update >&2 && apt-get -qq download tini >&2 && base64 tini_*.deb"
_PYTHON_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"
_DISTRIBUTIONS = """
import importlib.metadata, json
print(json.dumps([
    [d.name, d.version, d.metadata.get("License-Expression"), d.metadata.get("License")]
    for d in importlib.metadata.distributions()
]))
"""


class ImageError(FlaremeshError):
    """An image cannot be built; the message says in which step, why and what to do."""


@dataclass(frozen=True)
class Variant:
    """What makes an image differ from the others; docker-bake.hcl says the same.

    Attributes:
        suffix: of its tag.
        extras: extra of the package that it holds.
        gpus: GPUs that NVIDIA's container runtime gives it by default.
    """

    suffix: str = ""
    extras: str = ""
    gpus: str = "void"


VARIANTS: Final = {
    "cpu": Variant(),
    "cuda": Variant(suffix="-cuda", gpus="all"),
    "cli": Variant(suffix="-cli", extras="deploy"),
}


def image_name(variant: str, registry: str = "") -> str:
    """Name and tag of a variant's image.

    Args:
        variant: a key of VARIANTS.
        registry: what stands before the name, such as ``registry.example.org/mesh``.
    """
    prefix = f"{registry.rstrip('/')}/" if registry else ""
    return f"{prefix}flaremesh:{__version__}{VARIANTS[variant].suffix}"


def gather_wheels(variant: str, python_image: str = PYTHON_IMAGE, torch_index: str = "") -> Path:
    """Put all that the image is made of into a folder, from which it is then built without a network.

    pip runs here, and not in the build, so that this machine's settings of pip count.

    Args:
        variant: a key of VARIANTS.
        python_image: the base image.
        torch_index: URL of a package index with the build of torch to take; empty takes pip's.

    Returns:
        the folder, to build from.

    Raises:
        ImageError: this Python's wheels do not fit the base image, or something cannot be fetched.
    """
    _check_checkout()
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    there = _output(python_image, ["python", "-c", _PYTHON_VERSION]).decode().strip()
    if here != there:
        raise ImageError(
            f"wheels of Python {here} do not fit {python_image}, which has Python {there}. "
            f"Make the environment with Python {there}, or take another PYTHON_IMAGE."
        )
    folder = _WHEELS / variant
    folder.mkdir(parents=True, exist_ok=True)
    extras = VARIANTS[variant].extras
    requirements = f"requirements/image{f'-{extras}' if extras else ''}.txt"
    index = ["--extra-index-url", torch_index] if torch_index else []
    pip = [sys.executable, "-m", "pip", "wheel", "-qq", "--wheel-dir", str(folder), *index]
    if subprocess.run([*pip, "--requirement", requirements], check=False).returncode:
        raise ImageError(f"pip cannot gather the wheels of {requirements}; its message is above.")
    tini = folder / "tini.deb"
    if not tini.exists():
        tini.write_bytes(b64decode(_output(python_image, ["sh", "-c", _FETCH_TINI], user="root")))
    return folder


def build(
    variant: str, registry: str = "", python_image: str = PYTHON_IMAGE, source: str = ""
) -> tuple[str, Path]:
    """Build an image from the wheels that were gathered, without a network, and write its SBOM.

    Args:
        variant: a key of VARIANTS.
        registry: what stands before the image's name, such as ``registry.example.org/mesh``.
        python_image: the base image.
        source: URL of the sources, for the image's label.

    Returns:
        the image's name, and the file with its SBOM.

    Raises:
        ImageError: the build fails.
    """
    _check_checkout()
    folder = _WHEELS / variant
    if not folder.is_dir():
        raise ImageError(f"there are no wheels in {folder}. Run `make wheels VARIANT={variant}` first.")
    name = image_name(variant, registry)
    arguments = {
        "PYTHON_IMAGE": python_image,
        "WHEELS": str(folder),
        "OFFLINE": "1",
        "EXTRAS": VARIANTS[variant].extras,
        "GPUS": VARIANTS[variant].gpus,
        "VERSION": __version__,
        "REVISION": _revision(),
        "SOURCE": source,
    }
    with _engine() as engine:
        _follow(
            name,
            engine.api.build(
                path=".",
                dockerfile=str(DOCKERFILE),
                tag=name,
                buildargs=arguments,
                network_mode="none",
                rm=True,
                forcerm=True,
                decode=True,
            ),
        )
    _SBOMS.mkdir(parents=True, exist_ok=True)
    file = _SBOMS / f"flaremesh-{__version__}{VARIANTS[variant].suffix}.cdx.json"
    file.write_text(json.dumps(bill_of_materials(name), indent=2) + "\n")
    return name, file


def bill_of_materials(name: str) -> dict[str, Any]:
    """What is in an image, as a CycloneDX document: its Python distributions and Debian packages.

    Both are listed by the image's own tools in a container, so that the document says what is really there.

    Args:
        name: of an image that this machine's engine has.

    Raises:
        ImageError: there is no such image or it cannot be run.
    """
    python = json.loads(_output(name, ["python", "-c", _DISTRIBUTIONS]))
    debian = _output(
        name, ["dpkg-query", "--show", "--showformat", r"${Package} ${Version} ${Architecture}\n"]
    )
    components = [_python_component(*distribution) for distribution in python]
    components += [_debian_component(*line.split()) for line in debian.decode().splitlines()]
    with _engine() as engine:
        digest = engine.images.get(name).id.removeprefix("sha256:")
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


def _python_component(name: str, version: str, expression: str | None, text: str | None) -> dict[str, Any]:
    component = _component(name, version, f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version)}")
    if expression:
        component["licenses"] = [{"expression": expression}]
    elif text and "\n" not in text:  # some distributions have the whole licence there
        component["licenses"] = [{"license": {"name": text}}]
    return component


def _debian_component(name: str, version: str, architecture: str) -> dict[str, Any]:
    return _component(name, version, f"pkg:deb/debian/{name}@{quote(version, safe=':')}?arch={architecture}")


def _component(name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


@contextmanager
def _engine() -> Iterator[Any]:
    engine = docker_engine(timeout=600.0)
    try:
        yield engine
    except APIError as error:
        raise ImageError(f"the Docker engine refuses: {error.explanation or error}") from None
    finally:
        engine.close()


def _output(image: str, command: Sequence[str], user: str | None = None) -> bytes:
    """What a command prints in a new container of an image."""
    with _engine() as engine:
        try:
            return bytes(
                engine.containers.run(
                    image, command[1:], entrypoint=command[:1], user=user, remove=True, stderr=False
                )
            )
        except ImageNotFound:
            raise ImageError(f"there is no image {image}, here or in its registry.") from None
        except ContainerError as error:
            raise ImageError(
                f"{command[0]} fails in {image}: {bytes(error.stderr or b'').decode().strip()}"
            ) from None


def _follow(name: str, events: Iterator[dict[str, Any]]) -> None:
    """Show the steps of a build.

    Raises:
        ImageError: a step failed; what it printed is shown first.
    """
    number, printed = "its start", list[str]()
    for event in events:
        if "error" in event:
            sys.stderr.writelines(printed)
            raise ImageError(f"the build of {name} failed at {number}: {event['error'].strip()}")
        text = event.get("stream", "")
        if text.startswith("Step "):
            number, printed = text.partition(" : ")[0], []
            sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
            sys.stdout.flush()
        else:
            printed.append(text)


def _check_checkout() -> None:
    if not DOCKERFILE.exists():
        raise ImageError(f"there is no {DOCKERFILE} here: images are built in a checkout of flaremesh.")


def _revision() -> str:
    """The commit, with ``-dirty`` where files were changed since; empty without git."""
    git = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.images", description="Build flaremesh's images.")
    parser.add_argument("action", choices=["wheels", "build"])
    parser.add_argument("variant", choices=list(VARIANTS))
    parser.add_argument("--registry", default="", help="what stands before the image's name")
    parser.add_argument("--python-image", default=PYTHON_IMAGE, help="the base image")
    parser.add_argument("--torch-index", default="", help="URL of the index with the build of torch to take")
    parser.add_argument("--source", default="", help="URL of the sources, for the image's label")
    given = parser.parse_args(arguments)
    try:
        if given.action == "wheels":
            sys.stdout.write(f"{gather_wheels(given.variant, given.python_image, given.torch_index)}\n")
        else:
            name, sbom = build(given.variant, given.registry, given.python_image, given.source)
            sys.stdout.write(f"built {name}; SBOM in {sbom}\n")
    except FlaremeshError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
