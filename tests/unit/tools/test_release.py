"""What `make release-check` finds in a checkout."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tools import release

REPOSITORY = Path(__file__).parents[3]
CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.3] - 2026-11-29

- Sites link directly.

## [1.2.2] - 2026-01-01

- Fixed.
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of version 1.2.3 in which nothing is left to do."""
    chart = tmp_path / "helm/flaremesh-site"
    chart.mkdir(parents=True)
    depends = "dependencies: [{name: flaremesh-participant, version: 1.2.3}]"
    (chart / "Chart.yaml").write_text(f"type: application\nversion: 1.2.3\nappVersion: 1.2.3\n{depends}\n")
    (chart / "values.yaml").write_text('image: {tag: "1.2.3"}\n')
    for name, text in (
        ("src/flaremesh/__init__.py", '__version__ = "1.2.3"\n'),
        ("images/docker-bake.hcl", 'variable "VERSION" { default = "1.2.3" }\n'),
        ("docs/kubernetes.md", "image: registry.example.org/flaremesh:1.2.3\n"),
        ("README.md", "flaremesh\n"),
        ("LICENSE", "Apache\n"),
        ("CHANGELOG.md", CHANGELOG),
        (".gitignore", "build/\n"),
        ("pyproject.toml", PROJECT),
        ("images/Dockerfile", f"ARG PYTHON_IMAGE=python:3.11@sha256:{'0' * 64}\n"),
        ("requirements/constraints.txt", "torch==2.13.0\n"),
        ("requirements/lock.txt", PINS),
        *((f"build/images/flaremesh-1.2.3{end}.cdx.json", SBOM) for end in ("", "-cuda", "-cli")),
        *((f"build/images/flaremesh-1.2.3{end}.cdx.json.minisig", "") for end in ("", "-cuda", "-cli")),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    commit(tmp_path)
    return tmp_path


SBOM = json.dumps({"components": [{"name": "torch"}]})
PINS = "a==1 \\\n    --hash=sha256:00\n    # via b\nb==2 \\\n    --hash=sha256:11\n"
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "flaremesh"
dynamic = ["version"]
[tool.setuptools.packages.find]
where = ["src"]
[tool.setuptools.dynamic]
version = { attr = "flaremesh.__version__" }
"""


def commit(folder: Path, *, tag: str = "") -> None:
    author = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    for command in (
        ("init", "--quiet"),
        ("add", "--all"),
        (*author, "commit", "--quiet", "--allow-empty", "--message", "All"),
        *([("tag", tag)] if tag else []),
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)


def test_where_nothing_is_left_to_do_every_line_is_ok(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert release.main(checkout) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "flaremesh 1.2.3"
    assert len(lines) == len(release.CHECKS)
    assert all(line.startswith("ok  ") for line in lines)


MISTAKES = {
    "a version that is no release": (
        ("src/flaremesh/__init__.py", "1.2.3", "1.2.3.dev0"),
        "1.2.3.dev0 is no number of a release: give flaremesh.__version__ three numbers",
    ),
    "a chart of another version": (
        ("helm/flaremesh-site/Chart.yaml", "\nversion: 1.2.3", "\nversion: 1.2.2"),
        "helm/flaremesh-site/Chart.yaml: version is 1.2.2: write 1.2.3",
    ),
    "a chart of another version of what it starts": (
        ("helm/flaremesh-site/Chart.yaml", "appVersion: 1.2.3", "appVersion: 1.2.2"),
        "helm/flaremesh-site/Chart.yaml: appVersion is 1.2.2: write 1.2.3",
    ),
    "a chart that depends on another version": (
        ("helm/flaremesh-site/Chart.yaml", "version: 1.2.3}", "version: 1.2.2}"),
        "helm/flaremesh-site/Chart.yaml: version of flaremesh-participant is 1.2.2: write 1.2.3",
    ),
    "a chart that starts another image": (
        ("helm/flaremesh-site/values.yaml", "1.2.3", "1.2.2"),
        "helm/flaremesh-site/values.yaml: the image's tag is 1.2.2: make charts",
    ),
    "an image that is built under another tag": (
        ("images/docker-bake.hcl", "1.2.3", "1.2.2"),
        "images/docker-bake.hcl has another VERSION: write 1.2.3 as its default",
    ),
    "a page with an older image": (
        ("docs/kubernetes.md", "1.2.3", "1.2.2"),
        "docs/kubernetes.md names flaremesh:1.2.2: write 1.2.3",
    ),
    "a changelog without the version": (
        ("CHANGELOG.md", "1.2.3", "1.2.4"),
        "CHANGELOG.md has no section 1.2.3: give it ## [1.2.3] - YYYY-MM-DD, with what is new",
    ),
    "a changelog that says nothing of the version": (
        ("CHANGELOG.md", "- Sites link directly.", ""),
        "CHANGELOG.md has no section 1.2.3: give it ## [1.2.3] - YYYY-MM-DD, with what is new",
    ),
    "changes that stand nowhere": (
        ("CHANGELOG.md", "## [Unreleased]", "## [Unreleased]\n\n- New."),
        "CHANGELOG.md has changes that are not released: move them to [1.2.3]",
    ),
    "a package without a hash": (
        ("requirements/lock.txt", " \\\n    --hash=sha256:00", ""),
        "requirements/lock.txt has no hash of a==1: make lock",
    ),
    "a base that may be another one tomorrow": (
        ("images/Dockerfile", f"@sha256:{'0' * 64}", ""),
        "images/Dockerfile names its base without a digest: make pin-images",
    ),
    "an empty bill of materials": (
        ("build/images/flaremesh-1.2.3-cli.cdx.json", '{"name": "torch"}', ""),
        "build/images/flaremesh-1.2.3-cli.cdx.json lists nothing: make images VARIANT=cli",
    ),
}


@pytest.mark.parametrize(("change", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_what_is_left_to_do_is_told_with_what_to_do(
    checkout: Path, change: tuple[str, str, str], said: str
) -> None:
    name, old, new = change
    file = checkout / name
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    commit(checkout)
    version = release.version_of(checkout)
    checks = [check for check in release.CHECKS if check is not release.wheel]  # which takes seconds
    what, remedy = next(trouble for check in checks for trouble in check(checkout, version))
    assert f"{what}: {remedy}" == said


def test_with_something_left_to_do_the_command_fails(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "pyproject.toml").write_text("[project")
    commit(checkout)
    assert release.main(checkout) == 1
    said = capsys.readouterr().out
    assert "\nno  The wheel can be built" in said
    assert "      the wheel cannot be built: mend this: " in said


def test_a_missing_bill_of_materials_is_told_with_the_command_that_makes_it(checkout: Path) -> None:
    shutil.rmtree(checkout / "build")
    troubles = list(release.sbom(checkout, "1.2.3"))
    assert [trouble.remedy for trouble in troubles] == [
        "make images VARIANT=cpu",
        "make images VARIANT=cuda",
        "make images VARIANT=cli",
    ]


def test_a_bill_of_materials_that_anybody_could_have_written_is_told(checkout: Path) -> None:
    (checkout / "build/images/flaremesh-1.2.3.cdx.json.minisig").unlink()
    (trouble,) = release.sbom(checkout, "1.2.3")
    assert trouble.what == "build/images/flaremesh-1.2.3.cdx.json is not signed"


def test_everything_that_this_checkout_installs_is_pinned_with_its_hashes() -> None:
    assert [what for what, remedy in release.pinned(REPOSITORY, "") if remedy == "make lock"] == []


def test_a_version_that_has_a_tag_and_a_file_that_is_not_committed_are_told(checkout: Path) -> None:
    commit(checkout, tag="v1.2.3")
    (checkout / "note.txt").write_text("")
    (tagged,) = release.release_number(checkout, "1.2.3")
    (changed,) = release.committed(checkout, "1.2.3")
    assert tagged.what == "the tag v1.2.3 exists"
    assert changed.what == "note.txt is not committed"


def test_a_file_that_the_wheel_lacks_is_named(checkout: Path) -> None:
    (checkout / "src/flaremesh/page.html.j2").write_text("")
    (trouble,) = release.wheel(checkout, "1.2.3")
    assert trouble.what == "the wheel lacks flaremesh/page.html.j2"


def test_the_wheel_of_this_checkout_is_whole() -> None:
    assert list(release.wheel(REPOSITORY, release.version_of(REPOSITORY))) == []


def test_an_image_is_made_of_all_that_the_wheel_is_made_of() -> None:
    """Without helm, to which the package has a link, the image of the command line would lack the charts."""
    copied = re.findall(r"^COPY (.*)$", (REPOSITORY / "images/Dockerfile").read_text(), re.MULTILINE)
    words = {word.rstrip("/") for line in copied for word in line.split()}
    let_through = {line.strip("!/") for line in (REPOSITORY / ".dockerignore").read_text().splitlines()}
    assert {*release.SOURCES} <= words & let_through


def test_nothing_is_installed_from_two_indexes_at_a_time() -> None:
    for name in ("Makefile", "images/Dockerfile", "requirements/install", "tools/images.py"):
        text = (REPOSITORY / name).read_text()
        assert "extra-index" not in text
