"""What a built image holds, and how it runs."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import DockerException, ImageNotFound

from flaremesh import __version__
from flaremesh.deploy.bill_of_materials import bill_of_materials
from programs import engine_lacking, lacking
from tools.images import hashes, image_name


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    try:
        engine = docker.from_env()
        engine.ping()
    except DockerException as error:
        engine_lacking(error)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def image(engine: docker.DockerClient) -> Any:
    try:
        return engine.images.get(image_name("cpu"))
    except ImageNotFound:
        lacking(f"the Docker engine has no image {image_name('cpu')}", "make images")


@pytest.fixture
def container(engine: docker.DockerClient, image: Any) -> Iterator[Any]:
    """Starts a container as a cluster does: read-only root, no capabilities, writable /tmp."""
    started = []

    def start(command: list[str] | None = None, **options: Any) -> Any:
        if command:
            options |= {"entrypoint": command[:1], "command": command[1:]}
        settings = {
            "read_only": True,
            "tmpfs": {"/tmp": "mode=1777"},
            "cap_drop": ["ALL"],
            "network_mode": "none",
        }
        started.append(engine.containers.run(image.id, detach=True, **(settings | options)))
        return started[-1]

    yield start
    for container in started:
        container.remove(force=True)


def result(container: Any) -> tuple[int, str]:
    status = container.wait(timeout=60)["StatusCode"]
    return status, container.logs().decode()


def test_the_image_is_smaller_than_1_2_gb(image):
    assert image.attrs["Size"] < 1.2e9


def test_the_user_is_a_number_other_than_root(image):
    assert re.fullmatch(r"[1-9]\d*:\d+", image.attrs["Config"]["User"])


def test_the_image_says_what_it_is(image):
    labels = image.labels
    assert labels["org.opencontainers.image.title"] == "flaremesh"
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.base.name"].startswith("python:")
    assert {"org.opencontainers.image." + name for name in ("description", "revision", "source")} <= set(
        labels
    )


def test_a_participant_without_a_kit_says_so_and_exits_with_a_configuration_error(container):
    status, output = result(container())
    assert status == 78
    assert "there is no startup kit in /workspace/startup" in output


def test_any_user_can_run_the_image(container):
    status, output = result(container(user="54321:0"))
    assert (status, "there is no startup kit" in output) == (78, True)


def test_nothing_that_builds_or_installs_is_left(container):
    tools = "pip pip3 gcc cc g++ make ld"
    status, output = result(
        container(["sh", "-c", f"command -v {tools}; python -c 'import pip'; python3 -m ensurepip"])
    )
    assert status != 0
    assert "No module named 'pip'" in output
    assert "No module named ensurepip" in output
    assert "/bin/" not in output.replace("/opt/flaremesh/bin/python", "")


def test_a_site_has_the_commands_of_its_own_admin(container):
    status, output = result(container(["flaremesh", "pending"]))
    assert (status, "/workspace is no site's workspace" in output) == (2, True)


@pytest.mark.parametrize("package", ["typer", "rich", "kubernetes", "matplotlib"])
def test_the_deploy_extras_are_absent(container, package):
    status, output = result(container(["python", "-c", f"import {package}"]))
    assert (status, f"No module named '{package}'" in output) == (1, True)


def test_bytecode_is_there_since_a_read_only_root_cannot_get_any(container):
    script = "import flaremesh, numpy, torch, pathlib; " + "; ".join(
        f"assert pathlib.Path({module}.__cached__).exists()" for module in ("flaremesh", "numpy", "torch")
    )
    assert result(container(["python", "-c", script])) == (0, "")


def test_torch_trains_without_a_compiler_and_as_a_user_without_a_name(container):
    script = """
import torch
model = torch.nn.Linear(2, 1)
model(torch.ones(2)).sum().backward()
torch.optim.Adam(model.parameters()).step()
"""
    assert result(container(["python", "-c", script], user="54321:0")) == (0, "")


def test_the_bill_of_materials_lists_what_the_lock_pins(image, container):
    document = bill_of_materials(image_name("cpu"), hashes(Path("build/wheels/cpu")))
    found = {
        component["purl"].partition("?")[0].partition("@")[0]: component
        for component in document["components"]
    }
    lock = Path("requirements/image.txt").read_text() + Path("requirements/torch.txt").read_text()
    pinned = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock, re.MULTILINE))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    for name in ("nvflare", "torch", "cryptography"):
        assert found[f"pkg:pypi/{name}"]["version"].partition("+")[0] == pinned[name]
        (checked,) = found[f"pkg:pypi/{name}"]["hashes"]
        assert checked["alg"] == "SHA-256"
        assert f"--hash=sha256:{checked['content']}" in lock
    assert found["pkg:pypi/flaremesh"]["version"] == __version__
    assert "pkg:deb/debian/tini" in found
    json.dumps(document)


def test_every_pinned_package_but_the_installer_s_is_in_the_image(image):
    names = {
        component["name"].lower().replace("_", "-").replace(".", "-")
        for component in bill_of_materials(image_name("cpu"))["components"]
        if component["purl"].startswith("pkg:pypi/")
    }
    pinned = set(re.findall(r"^([a-z0-9-]+)==", Path("requirements/image.txt").read_text(), re.MULTILINE))
    assert pinned <= names
