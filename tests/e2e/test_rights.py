"""What an admin needs of the cluster."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import call, kubectl
from installed_mesh import Mesh


@pytest.fixture
def _rights_in_the_mesh_only(mesh: Mesh, tmp_path: Path) -> Iterator[None]:
    """The commands run as an admin of the mesh's namespaces, without any right beyond them."""
    home = mesh.namespaces["server"]
    kubectl(home, "create", "serviceaccount", "limited")
    for namespace in set(mesh.namespaces.values()):
        role = ("--clusterrole=admin", f"--serviceaccount={home}:limited")
        kubectl(namespace, "create", "rolebinding", "limited", *role)
    config = json.loads(call("kubectl", "config", "view", "--minify", "--raw", "--output", "json"))
    config["users"][0]["user"] = {"token": kubectl(home, "create", "token", "limited").strip()}
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(file))
        yield
    kubectl(home, "delete", "serviceaccount", "limited")
    for namespace in set(mesh.namespaces.values()):
        kubectl(namespace, "delete", "rolebinding", "limited")


@pytest.mark.usefixtures("_rights_in_the_mesh_only")
def test_rights_in_the_namespaces_of_the_mesh_suffice_to_see_it_and_to_run_it(mesh: Mesh):
    status = mesh.flaremesh("status", "--json")
    assert status.returncode == 0, status.stderr
    assert json.loads(status.stdout)["ready"]
    assert mesh.run("--iterations", "5")["outcome"] == "finished"
