"""What `flaremesh down` removes from a cluster, and what stays."""

from pathlib import Path

import yaml
from cluster import objects
from installed_mesh import Mesh

KINDS = (
    "statefulsets,pods,services,secrets,configmaps,serviceaccounts,networkpolicies,"
    "poddisruptionbudgets,persistentvolumeclaims,jobs"
)
OF_EVERY_NAMESPACE = {("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default")}


def test_down_leaves_the_volume_claims_only_and_up_goes_on_with_them(mesh: Mesh):
    down = mesh.flaremesh("down")
    assert down.returncode == 0, down.stderr
    for name, namespace in mesh.namespaces.items():
        left = {(o["kind"], o["metadata"]["name"]) for o in objects(namespace, KINDS)}
        assert left - OF_EVERY_NAMESPACE == {("PersistentVolumeClaim", f"workspace-{name}-0")}
    up = mesh.flaremesh("up", "--timeout", "120")
    assert up.returncode == 0, up.stderr
    assert mesh.run("--iterations", "5")["outcome"] == "finished"


def test_down_stops_a_site_that_left_the_topology_too(mesh: Mesh, tmp_path: Path):
    document = yaml.safe_load(mesh.file.read_text())
    left = document["sites"].pop()["name"]
    smaller = tmp_path / "smaller.yaml"
    smaller.write_text(yaml.safe_dump(document))
    down = mesh.flaremesh("down", file=smaller)
    assert down.returncode == 0, down.stderr
    assert left in down.stdout
    assert objects(mesh.namespaces[left], "statefulsets,pods") == []
    up = mesh.flaremesh("up", "--timeout", "120")
    assert up.returncode == 0, up.stderr
