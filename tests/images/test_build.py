"""What goes into an image, and what a failing build says."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException
from docker.utils.build import tar

from flaremesh import __version__
from programs import engine_lacking
from tools.images import DOCKERFILE, PYTHON_IMAGE, VARIANTS, image_name

BAKE = Path("images/docker-bake.hcl").read_text()


def images(*arguments, environment=None, folder=None):
    return subprocess.run(
        [sys.executable, "-m", "tools.images", *arguments],
        capture_output=True,
        text=True,
        env={**(os.environ if environment is None else environment), "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=folder,
        check=False,
    )


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


def test_neither_kits_nor_keys_nor_other_files_enter_the_context(tmp_path):
    wanted = {
        "LICENSE",
        "pyproject.toml",
        "requirements/image.txt",
        "helm/flaremesh-site/Chart.yaml",
        "src/flaremesh/errors.py",
        "build/wheels/cpu/a.whl",
    }
    unwanted = {
        "build/ring/kits/bonn/startup/client.key",
        "build/wheels/cpu/stray.key",
        "src/flaremesh/client.key",
        "src/flaremesh/startup/rootCA.pem",
        "src/flaremesh/client.crt",
        "kits/bonn/startup/client.crt",
        "secret.yaml",
        ".git/config",
        "tests/test_it.py",
    }
    for name in wanted | unwanted:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    shutil.copy(".dockerignore", tmp_path)
    rules = [line for line in Path(".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    with tar(str(tmp_path), exclude=rules) as context, tarfile.open(fileobj=context) as archive:
        sent = {member.name for member in archive if member.isfile()}
    assert sent - {".dockerignore"} == wanted


@pytest.mark.parametrize(("variant", "tag"), [("cpu", ""), ("cuda", "-cuda"), ("cli", "-cli")])
def test_a_variant_is_told_by_its_tag(variant, tag):
    assert image_name(variant) == f"flaremesh:{__version__}{tag}"
    assert image_name(variant, "registry.example.org:5000/mesh") == (
        f"registry.example.org:5000/mesh/flaremesh:{__version__}{tag}"
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_the_bake_file_and_the_classic_build_agree_on_a_variant(name):
    target = re.search(rf'^target "{name}" {{\n(.*?)^}}', BAKE, re.MULTILINE | re.DOTALL)[1]
    arguments = dict(re.findall(r'([A-Z]+) = "([^"]*)"', target))
    assert f'flaremesh:${{VERSION}}{VARIANTS[name].suffix}"' in target
    assert arguments.pop("WHEELS") == f"build/wheels/{name}"
    assert arguments.pop("EXTRAS", "") == VARIANTS[name].extras
    assert arguments.pop("GPUS", "void") == VARIANTS[name].gpus
    assert not arguments


def test_all_name_this_version_and_the_same_base():
    assert f'variable "VERSION" {{ default = "{__version__}" }}' in BAKE
    assert f"ARG PYTHON_IMAGE={PYTHON_IMAGE}\n" in DOCKERFILE.read_text()
    assert f'variable "PYTHON_IMAGE" {{ default = "{PYTHON_IMAGE}" }}' in BAKE


def test_every_argument_of_the_bake_file_is_one_of_the_dockerfile():
    arguments = set(re.findall(r"^ARG (\w+)", DOCKERFILE.read_text(), re.MULTILINE))
    assert set(re.findall(r"\b([A-Z_]+)\s+= ", BAKE)) <= arguments


def test_without_an_engine_the_message_says_so():
    failed = images("wheels", "cpu", environment={"DOCKER_HOST": "unix:///nowhere/docker.sock"})
    assert failed.returncode == 1
    assert failed.stderr.startswith("Error: no Docker engine answers")
    assert failed.stderr.count("\n") == 1


def test_outside_of_a_checkout_the_message_says_so(tmp_path):
    failed = images("build", "cpu", folder=tmp_path)
    assert failed.returncode == 1
    assert "images are built in a checkout of flaremesh" in failed.stderr


def test_a_step_that_fails_is_named(tmp_path):
    try:
        docker.from_env().close()
    except DockerException as error:
        engine_lacking(error)
    (tmp_path / "images").mkdir()
    (tmp_path / "build/wheels/cpu").mkdir(parents=True)
    (tmp_path / "images/Dockerfile").write_text("FROM scratch\nCOPY missing /\n")
    failed = images("build", "cpu", "--registry", "localhost/broken", folder=tmp_path)
    assert failed.returncode == 1
    assert f"the build of localhost/broken/flaremesh:{__version__} failed at Step 2/2" in failed.stderr
