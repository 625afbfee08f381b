"""The manifest of a meeting point by itself."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from connections import Pod, may_connect
from restricted import violations
from test_standards import KUBERNETES

from flaremesh import __version__

MANIFEST = Path(__file__).parents[2] / "deploy/kubernetes/meeting-point.yaml"
PORT = 8003


@pytest.fixture
def objects() -> dict[str, Any]:
    """By kind, for the mesh ring."""
    text = MANIFEST.read_text().replace("MESH", "ring")
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


@pytest.mark.parametrize("version", KUBERNETES)
def test_its_objects_fit_the_schemas_of_kubernetes(objects: dict[str, Any], version: str) -> None:
    assert objects.keys() == {"Deployment", "Service", "NetworkPolicy"}
    for document in objects.values():
        kubernetes_validate.validate(document, version, strict=True)


def test_its_pod_fits_the_restricted_standard_and_runs_this_version(objects: dict[str, Any]) -> None:
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    assert list(violations(pod)) == []
    assert pod["containers"][0]["image"] == f"flaremesh:{__version__}-cli"


def test_it_has_the_name_and_port_by_which_policies_of_sites_find_it(objects: dict[str, Any]) -> None:
    template, service = objects["Deployment"]["spec"]["template"], objects["Service"]
    labels = template["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert labels["flaremesh.dev/participant"] == service["metadata"]["name"]
    # policies see the pod's port, so that the Service must have the same
    ports = {c["containerPort"] for c in template["spec"]["containers"][0]["ports"]}
    assert ports == {port["port"] for port in service["spec"]["ports"]} == {PORT}


def test_anybody_may_dial_it_at_its_port_and_it_dials_nobody(objects: dict[str, Any]) -> None:
    point = Pod("meeting", objects["Deployment"]["spec"]["template"]["metadata"]["labels"])
    rules = [("meeting", objects["NetworkPolicy"])]
    for other in (Pod("ring-bonn", {}), Pod(address="198.51.100.7")):
        assert may_connect(other, point, PORT, rules)
        assert not may_connect(other, point, PORT + 1, rules)
        assert not may_connect(point, other, PORT, rules)
