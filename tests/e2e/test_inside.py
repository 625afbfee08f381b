"""A run that an admin submits from a pod."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import kubectl
from installed_mesh import Mesh

from flaremesh.provision.job import write_job

ADMIN = """
apiVersion: v1
kind: Pod
metadata:
  name: admin
  labels: {{app.kubernetes.io/component: admin}}
spec:
  automountServiceAccountToken: false
  securityContext: {{runAsNonRoot: true, runAsUser: 10001, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
    - name: admin
      image: {image}
      imagePullPolicy: IfNotPresent
      command: [tini, --, sleep, infinity]
      securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"""

SUBMIT = """
from nvflare.fuel.flare_api.flare_api import new_secure_session
session = new_secure_session("{email}", "/tmp/{email}")
run_id = session.submit_job("/tmp/job")
session.monitor_job(run_id, timeout=120)
print("status", session.get_job_meta(run_id)["status"])
session.close()
"""


@pytest.fixture
def admin(mesh: Mesh, tmp_path: Path) -> Iterator[str]:
    """The namespace of a pod beside the server that holds an admin's kit and a job."""
    namespace = mesh.namespaces["server"]
    run = mesh.topology.run.model_copy(update={"iterations": 10})
    write_job(mesh.topology.model_copy(update={"run": run}), tmp_path / "job", name="inside")
    kubectl(namespace, "apply", "-f", "-", text=ADMIN.format(image=mesh.topology.deploy.image))
    kubectl(namespace, "wait", "pod/admin", "--for=condition=Ready", "--timeout=60s")
    for folder in (tmp_path / "job", mesh.folder / "kits" / mesh.topology.admins[0].email):
        kubectl(namespace, "cp", str(folder), f"admin:/tmp/{folder.name}")
    yield namespace
    kubectl(namespace, "delete", "pod", "admin", "--grace-period=0", "--force")


def test_a_run_can_be_submitted_from_inside_the_cluster(mesh: Mesh, admin: str):
    script = SUBMIT.format(email=mesh.topology.admins[0].email)
    printed = kubectl(admin, "exec", "admin", "--", "python", "-c", script)
    assert printed.splitlines()[-1] == "status FINISHED:COMPLETED"
    assert json.loads(
        kubectl(
            *(admin, "exec", "server-0", "--", "python", "-c"),
            "import pathlib, json; print(json.dumps([p.name for p in pathlib.Path('/workspace').iterdir()]))",
        )
    )
