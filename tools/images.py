"""Builds the container images with any Docker engine, and lists what is in them.

``python -m tools.images wheels cpu`` gathers what the image is made of, and is the only part that
needs the network; ``python -m tools.images build cpu`` builds. `make images` does both.
"""

import argparse
import json
import re
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from docker.errors import APIError
from packaging.utils import parse_sdist_filename, parse_wheel_filename

from flaremesh import __version__
from flaremesh.checksum import sha256
from flaremesh.deploy.bill_of_materials import bill_of_materials, printed
from flaremesh.deploy.targets.docker.engine import engine as docker_engine
from flaremesh.errors import FlaremeshError

DOCKERFILE: Final = Path("images/Dockerfile")
PYTHON_IMAGE: Final = "python:3.11-slim-bookworm"
"""The base image; `make pin-images` adds its digest, here and in images/."""

_WHEELS = Path("build/wheels")
_REQUIREMENTS = Path("requirements")
_SBOMS = Path("build/images")

# in base64, because the engine's log of a container is text
_FETCH_TINI = "cd /tmp && apt-get -qq update >&2 && apt-get -qq download tini >&2 && base64 tini_*.deb"
_PYTHON_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"


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

    pip runs here, and not in the build, so that this machine's settings of pip count. Every file's hash is
    checked, here and again in the build; whatever else lies in the folder is thrown away.

    Args:
        variant: a key of VARIANTS.
        python_image: the base image.
        torch_index: URL of the index with torch's CPU build; empty takes the build that pip's find-links
            have, or else PyPI's.

    Returns:
        the folder, to build from.

    Raises:
        ImageError: this Python's wheels do not fit the base image, or something cannot be fetched.
    """
    _check_checkout()
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    there = printed(python_image, ["python", "-c", _PYTHON_VERSION]).decode().strip()
    if here != there:
        raise ImageError(
            f"wheels of Python {here} do not fit {python_image}, which has Python {there}. "
            f"Make the environment with Python {there}, or take another PYTHON_IMAGE."
        )
    folder = _WHEELS / variant
    folder.mkdir(parents=True, exist_ok=True)
    extras = VARIANTS[variant].extras
    requirements = f"image{f'-{extras}' if extras else ''}.txt"
    tini = folder / "tini.deb"
    known = set(
        re.findall("sha256:([0-9a-f]{64})", "".join(map(Path.read_text, _REQUIREMENTS.glob("*.txt"))))
    )
    for file in set(folder.iterdir()) - {tini}:
        if sha256(file) not in known:
            file.unlink()
    _download("installer.txt", folder)
    if torch_index:
        _download("torch.txt", folder, "--index-url", torch_index)
    elif _pip("torch.txt", folder, "--no-index", stderr=subprocess.DEVNULL):  # not where --find-links leads
        _download("torch.txt", folder)
    if not list(folder.glob("torch-*+cpu-*")):
        _download("torch-cuda.txt", folder)
    _download(requirements, folder)
    if not tini.exists():
        tini.write_bytes(b64decode(printed(python_image, ["sh", "-c", _FETCH_TINI], user="root")))
    return folder


def _download(requirements: str, folder: Path, *options: str) -> None:
    if _pip(requirements, folder, *options):
        raise ImageError(f"pip cannot gather what {_REQUIREMENTS / requirements} pins; its message is above.")


def _pip(requirements: str, folder: Path, *options: str, stderr: int | None = None) -> int:
    """The exit status of pip, which gathers what a file pins."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-qq",
        "--require-hashes",
        "--no-deps",
        "--no-build-isolation",
    ]
    command = [*pip, "--dest", str(folder), *options, "--requirement", str(_REQUIREMENTS / requirements)]
    return subprocess.run(command, stderr=stderr, check=False).returncode


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
    file.write_text(json.dumps(bill_of_materials(name, hashes(folder)), indent=2) + "\n")
    return name, file


def hashes(wheels: Path) -> dict[tuple[str, str], str]:
    """Name and version of every distribution that was gathered in a folder -> SHA-256 of its file."""
    found = {}
    for file in wheels.iterdir():
        if file.suffix == ".whl":
            name, version, *_ = parse_wheel_filename(file.name)
        elif file.name.endswith(".tar.gz"):
            name, version = parse_sdist_filename(file.name)
        else:
            continue
        found[str(name), str(version)] = sha256(file)
    return found


def pin() -> str:
    """Write into images/ and here which digest the base image's tag has in its registry now.

    Returns:
        the base image, with the digest.

    Raises:
        ImageError: the registry does not say it.
    """
    _check_checkout()
    tag = PYTHON_IMAGE.partition("@")[0]
    with _engine() as engine:
        pinned = f"{tag}@{engine.images.get_registry_data(tag).id}"
    for file in (DOCKERFILE, DOCKERFILE.with_name("docker-bake.hcl"), Path("tools/images.py")):
        file.write_text(re.sub(rf"{re.escape(tag)}(@sha256:[0-9a-f]{{64}})?", pinned, file.read_text()))
    return pinned


@contextmanager
def _engine() -> Iterator[Any]:
    engine = docker_engine(timeout=600.0)
    try:
        yield engine
    except APIError as error:
        raise ImageError(f"the Docker engine refuses: {error.explanation or error}") from None
    finally:
        engine.close()


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
    parser.add_argument("action", choices=["wheels", "build", "pin"])
    parser.add_argument("variant", choices=list(VARIANTS), nargs="?", default="cpu")
    parser.add_argument("--registry", default="", help="what stands before the image's name")
    parser.add_argument("--python-image", default=PYTHON_IMAGE, help="the base image")
    parser.add_argument("--torch-index", default="", help="URL of the index with the build of torch to take")
    parser.add_argument("--source", default="", help="URL of the sources, for the image's label")
    given = parser.parse_args(arguments)
    try:
        if given.action == "wheels":
            sys.stdout.write(f"{gather_wheels(given.variant, given.python_image, given.torch_index)}\n")
        elif given.action == "pin":
            sys.stdout.write(f"{pin()}\n")
        else:
            name, sbom = build(given.variant, given.registry, given.python_image, given.source)
            sys.stdout.write(f"built {name}; SBOM in {sbom}\n")
    except FlaremeshError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
