"""A site belongs to its owner in a pod as well: to its own policy, and not to the code of a run."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cluster import helm, kubectl
from installed_mesh import Mesh

CONFINED = """
import json, os, pathlib
from flaremesh.sandbox import files, landlock
workspace = pathlib.Path(os.environ["FLAREMESH_WORKSPACE"]).resolve()
(workspace / "run").mkdir(exist_ok=True)
files.confine(workspace, "run", os.environ)
def reads(path):
    try:
        return bool(path.read_bytes())
    except OSError:
        return False
startup = workspace / "startup"
print(json.dumps({"confined": landlock.version() > 0, "key": reads(startup / "client.key"),
                  "certificate": reads(startup / "client.crt")}))
"""


@pytest.fixture
def _few_are_refused(mesh: Mesh, tmp_path: Path) -> Iterator[None]:
    """The owner of bonn takes part in no run of fewer than a hundred sites."""
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump({"policy": {"least_sites": 100}}))
    mesh.upgrade("bonn", "-f", str(file))
    mesh.ready("bonn")
    yield
    helm(mesh.namespaces["bonn"], "rollback", "bonn")
    mesh.ready("bonn")


@pytest.mark.usefixtures("_few_are_refused")
def test_a_run_that_breaks_the_policy_of_a_pods_owner_is_refused_with_the_rules_name(mesh: Mesh) -> None:
    ended = mesh.flaremesh("run", "--json", "--iterations", "5")
    assert ended.returncode == 1
    assert "bonn: least_sites" in ended.stderr
    logged = kubectl(mesh.namespaces["bonn"], "exec", "bonn-0", "--", "flaremesh", "audit", "show")
    assert "least_sites" in logged


def test_what_a_run_starts_in_a_pod_reads_the_certificate_and_not_the_key(mesh: Mesh) -> None:
    printed = kubectl(mesh.namespaces["bonn"], "exec", "bonn-0", "--", "python", "-c", CONFINED)
    found = json.loads(printed.splitlines()[-1])
    if not found["confined"]:
        pytest.skip("the kernel of this cluster's nodes has no Landlock")
    assert found == {"confined": True, "key": False, "certificate": True}
