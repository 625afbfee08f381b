"""What goes wrong at a site is told by an event, the pod's status or the command, with its cause."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cluster import call, helm, objects, pod, wait_until
from installed_mesh import Mesh

SECONDS = 90
GPU = "nvidia.com/gpu"


@pytest.fixture
def bonn(mesh: Mesh) -> Iterator[str]:
    """The namespace of a site that is as it was before in the end."""
    namespace = mesh.namespaces["bonn"]
    good = json.loads(helm(namespace, "history", "bonn", "--output", "json"))[-1]["revision"]
    yield namespace
    helm(namespace, "rollback", "bonn", str(good))
    mesh.ready("bonn")


def last_words(namespace: str) -> str:
    """Why the container of bonn's pod ended, as `kubectl describe pod` shows it."""
    for bonn in objects(namespace, "pods"):  # none between the end of a pod and the start of the next
        for container in bonn["status"].get("containerStatuses", []):
            for state in (container["state"], container["lastState"]):
                if "terminated" in state and state["terminated"]["exitCode"]:
                    return str(state["terminated"]["message"])
    return ""


def event(namespace: str, word: str) -> bool:
    return any(word in (e.get("message") or "") for e in objects(namespace, "events"))


def told(namespace: str) -> str:
    return str(wait_until(lambda: last_words(namespace), SECONDS, lambda: str(objects(namespace, "pods"))))


def test_the_kit_of_another_site_is_named(mesh: Mesh, bonn: str):
    mesh.upgrade("bonn", "-f", str(mesh.release_folder("heidelberg") / "kit.yaml"))
    assert "this is bonn, and the kit is that of heidelberg" in told(bonn)


def test_an_expired_certificate_is_named_with_its_date(mesh: Mesh, bonn: str):
    yesterday = datetime.now(UTC) - timedelta(days=1)
    mesh.upgrade("bonn", "-f", str(mesh.certificate("bonn", ends=yesterday)))
    assert f"the certificate of bonn expired on {yesterday:%Y-%m-%d}" in told(bonn)


def test_an_image_that_does_not_exist_is_named_by_an_event(mesh: Mesh, bonn: str):
    mesh.upgrade("bonn", "--set", "image.tag=nowhere")
    wait_until(lambda: event(bonn, 'Failed to pull image "flaremesh:nowhere"'), SECONDS)


def test_a_secret_that_is_missing_is_named_by_an_event(mesh: Mesh, bonn: str):
    mesh.upgrade("bonn", "--set", "kit.existingSecret=absent")
    wait_until(lambda: event(bonn, 'secret "absent" not found'), SECONDS)


def test_a_full_volume_is_named(mesh: Mesh, bonn: str):
    node, path = mesh.volume("bonn")
    in_node = ("docker", "exec", node)
    call(*in_node, "mount", "-t", "tmpfs", "-o", "size=64k,mode=0777", "tmpfs", path)
    try:
        call(*in_node, "dd", "if=/dev/zero", f"of={path}/filler", check=False)
        mesh.upgrade("bonn", "--set", "podAnnotations.note=full")
        assert "bonn: the workspace /workspace cannot be written: No space left on device" in told(bonn)
    finally:
        call(*in_node, "umount", "--lazy", path)


def test_a_site_with_gpus_waits_for_a_node_that_has_them_and_then_for_an_image_that_can_use_them(
    mesh: Mesh, bonn: str
):
    node = pod(bonn, "bonn-0")["spec"]["nodeName"]
    mesh.upgrade("bonn", "--set", "gpus.count=1")
    wait_until(lambda: event(bonn, f"Insufficient {GPU}"), SECONDS)
    capacity = {"status": {"capacity": {GPU: "1"}, "allocatable": {GPU: "1"}}}
    patch = ("patch", "node", node, "--subresource=status", "--type=merge", "--patch")
    call("kubectl", *patch, json.dumps(capacity))
    try:
        assert "bonn asks for 1 GPUs, and this image's torch has no CUDA" in told(bonn)
        limits = pod(bonn, "bonn-0")["spec"]["containers"][0]["resources"]["limits"]
        assert limits[GPU] == "1"
    finally:
        nothing = {"status": {"capacity": {GPU: None}, "allocatable": {GPU: None}}}
        call("kubectl", *patch, json.dumps(nothing))


def test_up_fails_with_the_participant_and_the_cause_and_can_be_corrected(mesh: Mesh, tmp_path: Path):
    document = yaml.safe_load(mesh.file.read_text())
    document["deploy"]["image"] = "flaremesh:nowhere"
    wrong = tmp_path / "mesh.yaml"
    wrong.write_text(yaml.safe_dump(document))
    up = mesh.flaremesh("up", "--timeout", "60", file=wrong)
    assert up.returncode == 1
    # whoever's node tried first
    assert re.search(r"^Error: \w+ does not come up: .*flaremesh:nowhere", up.stderr)
    corrected = mesh.flaremesh("up", "--timeout", "90")
    assert corrected.returncode == 0, corrected.stderr
