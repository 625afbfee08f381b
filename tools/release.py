"""Checks what is still to do before the version can be released: `make release-check` runs them all.

Every check reads the checkout and yields what is wrong, with what to do. The first line of its docstring is
what is printed of it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import yaml

SOURCES: Final = ("src", "helm", "pyproject.toml", "README.md", "LICENSE")
"""What the wheel is made of."""


class Trouble(NamedTuple):
    """What keeps the version from its release, and what to do."""

    what: str
    remedy: str


Check: TypeAlias = Callable[[Path, str], Iterator[Trouble]]
"""(checkout, version) -> what is wrong."""


def version_of(checkout: Path) -> str:
    """The version in the package's ``__init__``, which all others must equal.

    Raises:
        ValueError: there is none.
    """
    text = (checkout / "src/flaremesh/__init__.py").read_text()
    match = re.search(r'^__version__ = "(.*)"$', text, re.MULTILINE)
    if match is None:
        raise ValueError('src/flaremesh/__init__.py has no line __version__ = "..."')
    return match[1]


def release_number(checkout: Path, version: str) -> Iterator[Trouble]:
    """The version is a release's, and no tag has it yet."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        yield Trouble(f"{version} is no number of a release", "give flaremesh.__version__ three numbers")
    if _git(checkout, "tag", "--list", f"v{version}"):
        yield Trouble(f"the tag v{version} exists", "raise flaremesh.__version__")


def committed(checkout: Path, version: str) -> Iterator[Trouble]:
    """All that is released is committed."""
    for changed in _git(checkout, "status", "--short").splitlines():
        yield Trouble(f"{changed.split()[-1]} is not committed", "commit it, or undo the change")


def changelog(checkout: Path, version: str) -> Iterator[Trouble]:
    """The changelog has a dated section of the version that says something."""
    text = (checkout / "CHANGELOG.md").read_text()
    sections = dict(re.findall(r"^## (.+)\n([^\0]*?)(?=^## |\Z)", text, re.MULTILINE))
    dated = re.compile(rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d")
    if not any(dated.fullmatch(title) and content.strip() for title, content in sections.items()):
        yield Trouble(
            f"CHANGELOG.md has no section {version}", f"give it ## [{version}] - YYYY-MM-DD, with what is new"
        )
    if sections.get("[Unreleased]", "").strip():
        yield Trouble("CHANGELOG.md has changes that are not released", f"move them to [{version}]")


def charts(checkout: Path, version: str) -> Iterator[Trouble]:
    """Charts, what they depend on, and the image that they start have the version."""
    for file in sorted((checkout / "helm").glob("*/Chart.yaml")):
        about = yaml.safe_load(file.read_text())
        given = {"version": about["version"]}
        if about["type"] == "application":
            given["appVersion"] = about.get("appVersion")
        for needed in about.get("dependencies", []):
            given[f"version of {needed['name']}"] = needed["version"]
        for name, other in given.items():
            if other != version:
                yield Trouble(f"{file.relative_to(checkout)}: {name} is {other}", f"write {version}")
        values = file.with_name("values.yaml")
        image = (yaml.safe_load(values.read_text()) if values.exists() else {}).get("image")
        if image and image["tag"] != version:
            yield Trouble(f"{values.relative_to(checkout)}: the image's tag is {image['tag']}", "make charts")


def images(checkout: Path, version: str) -> Iterator[Trouble]:
    """The images are built under the version, and pages name them so."""
    bake = checkout / "images/docker-bake.hcl"
    if f'variable "VERSION" {{ default = "{version}" }}' not in bake.read_text():
        yield Trouble("images/docker-bake.hcl has another VERSION", f"write {version} as its default")
    for page in (checkout / "README.md", *sorted((checkout / "docs").glob("*.md"))):
        for other in sorted(set(re.findall(r"flaremesh:(\d+\.\d+\.\d+)", page.read_text())) - {version}):
            yield Trouble(f"{page.relative_to(checkout)} names flaremesh:{other}", f"write {version}")


def sbom(checkout: Path, version: str) -> Iterator[Trouble]:
    """There is a signed bill of materials of each image that is released."""
    for variant, suffix in (("cpu", ""), ("cuda", "-cuda"), ("cli", "-cli")):
        file = checkout / f"build/images/flaremesh-{version}{suffix}.cdx.json"
        if not file.exists():
            yield Trouble(f"there is no SBOM of the image {variant}", f"make images VARIANT={variant}")
        elif not json.loads(file.read_text())["components"]:
            yield Trouble(f"{file.relative_to(checkout)} lists nothing", f"make images VARIANT={variant}")
        elif not file.with_name(f"{file.name}.minisig").exists():
            where = file.relative_to(checkout)
            yield Trouble(
                f"{where} is not signed", f"minisign -Sm {where}, with a key that is not on this machine"
            )


def pinned(checkout: Path, version: str) -> Iterator[Trouble]:
    """All that is installed is pinned with its hashes, and images are built on a base with its digest."""
    for file in sorted((checkout / "requirements").glob("*.txt")):
        if file.name == "constraints.txt":
            continue  # what pins are made from
        entries = re.findall(r"^\w.*\n(?:^ .*\n)*", file.read_text(), re.MULTILINE)
        for name in (entry.split()[0] for entry in entries if "--hash=sha256:" not in entry):
            yield Trouble(f"{file.relative_to(checkout)} has no hash of {name}", "make lock")
    base = re.search(r"^ARG PYTHON_IMAGE=(.*)$", (checkout / "images/Dockerfile").read_text(), re.MULTILINE)
    if base is None or "@sha256:" not in base[1]:
        yield Trouble("images/Dockerfile names its base without a digest", "make pin-images")


def wheel(checkout: Path, version: str) -> Iterator[Trouble]:
    """The wheel can be built, and holds all files of the package, the charts among them, and nothing else."""
    with tempfile.TemporaryDirectory() as scratch:
        # in a copy: from the checkout's build/, setuptools would take files that have been deleted
        source = Path(scratch) / "source"
        source.mkdir()
        for name in SOURCES:
            if (checkout / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(checkout / name, source / name, symlinks=True, ignore=ignored)
            else:
                shutil.copy(checkout / name, source)
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        meant = _files(source / "src")
        built = subprocess.run(
            [*pip, "--wheel-dir", scratch, str(source)], capture_output=True, text=True, check=False
        )
        if built.returncode:
            yield Trouble("the wheel cannot be built", f"mend this: {built.stderr.strip()}")
            return
        (file,) = Path(scratch).glob("*.whl")
        if not file.name.startswith(f"flaremesh-{version}-"):
            yield Trouble(f"the wheel is called {file.name}", "see version in pyproject.toml")
        held = {name for name in zipfile.ZipFile(file).namelist() if ".dist-info/" not in name}
    remedy = "see package-data and packages.find in pyproject.toml"
    for what, names in (("lacks", meant - held), ("holds what is no part of it:", held - meant)):
        if names:
            yield Trouble(f"the wheel {what} {', '.join(sorted(names))}", remedy)


def _files(folder: Path) -> set[str]:
    """All files below a folder, relative to it, those behind links too."""
    walked = os.walk(folder, followlinks=True)
    return {str((Path(place) / name).relative_to(folder)) for place, _, names in walked for name in names}


def _git(checkout: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout.strip()


CHECKS: Final[tuple[Check, ...]] = (release_number, committed, changelog, charts, images, pinned, wheel, sbom)
"""All checks, in the order in which they are run."""


def main(checkout: Path = Path()) -> int:
    """Print a line per check, and return the exit status: 1 if anything is to do."""
    version = version_of(checkout)
    sys.stdout.write(f"flaremesh {version}\n")
    found = []
    for check in CHECKS:
        troubles = list(check(checkout, version))
        found += troubles
        promise = (check.__doc__ or "").splitlines()[0]
        sys.stdout.write(f"{'no' if troubles else 'ok'}  {promise}\n")
        for trouble in troubles:
            sys.stdout.write(f"      {trouble.what}: {trouble.remedy}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
