"""The process of a job reaches what it needs, and nothing that outlives the run."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_mesh import VALUES, Mesh, mesh_in
from running_mesh import wait_until

from flaremesh.deploy.runs.session import connect
from flaremesh.provision.job import write_job
from flaremesh.sandbox import landlock
from flaremesh.topology.load import load

SECRET = "the-password-of-the-database"
pytestmark = pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh that is up, whose sites have a password in their environment."""
    with mesh_in(tmp_path_factory.mktemp("mesh"), "ring") as mesh, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOSPITAL_DATABASE", SECRET)
        patch.setenv("FLAREMESH_JOB_ENVIRONMENT", "HOSPITAL_NAME")
        patch.setenv("HOSPITAL_NAME", "Charité")
        up = mesh.call("up")
        assert up.returncode == 0, up.stderr
        yield mesh


def test_the_code_of_a_job_reaches_no_key_no_policy_no_other_run_and_no_secret(mesh) -> None:
    earlier = mesh.run()["run_id"]
    bonn, local = mesh.folder / "local/bonn", mesh.folder / "local"
    (bonn / "policy.yaml").write_text("least_sites: 2\n")
    (bonn / "stores" / ("0" * 64)).mkdir(parents=True)
    (bonn / "stores" / ("0" * 64) / "checkpoint").touch()
    hidden = [
        bonn / "startup/client.key",
        local / "aachen/startup/client.key",
        local / "server/startup/server.key",
        mesh.folder / "kits/bonn/startup/client.key",
        mesh.folder / "kits/admin@example.org/startup/client.key",
        mesh.folder / "state/cert.json",
        bonn / "policy.yaml",
        bonn / "gate/audit.jsonl",
        bonn / earlier / "flaremesh/model.safetensors",
        bonn / "stores" / ("0" * 64) / "checkpoint",
        *map(Path, ("/proc/PARENT/environ", "/proc/PARENT/mem", "/proc/PARENT/maps")),
        Path(f"/proc/PARENT/root{bonn}/startup/client.key"),
        Path(f"/proc/self/root{bonn}/startup/client.key"),
    ]
    kept = [bonn / "startup/client.crt", bonn / "startup/fed_client.json", bonn / "local/resources.json"]
    kept += [bonn / "policy.yaml", bonn / "gate/audit.jsonl", bonn / earlier / "flaremesh/result.json"]
    kept += [bonn / "stores" / ("0" * 64) / "checkpoint"]
    nosy = {
        "path": "nosy.Nosy",
        "args": {
            "values": VALUES,
            "reads": [*map(str, hidden), str(bonn / "startup/rootCA.pem")],
            "writes": [*map(str, kept), "beside-the-run.txt"],
        },
    }
    run = mesh.run(file=mesh.topology("consensus", problem=nosy))["run_id"]
    found = json.loads((bonn / run / "found.json").read_text())
    able = {name for name, could in found["able"].items() if could}
    assert able == {str(bonn / "startup/rootCA.pem"), "write beside-the-run.txt"}
    assert SECRET not in json.dumps(found["environment"])
    assert found["environment"]["HOSPITAL_NAME"] == "Charité"
    assert found["environment"]["PYTHONSAFEPATH"] == "1"
    wait_until(
        lambda: not list(local.glob("*/*/credential")), 30
    )  # NVFlare ends processes some seconds later
    # both runs are over, and nothing is known of the store that lay there
    wait_until(lambda: [store.name for store in (bonn / "stores").iterdir()] == ["0" * 64], 30)


def test_a_variable_that_a_jobs_configuration_names_is_not_there(mesh, tmp_path: Path) -> None:
    job = tmp_path / "job"
    write_job(load(mesh.file), job, name="curious")
    file = job / "app_sites/config/config_fed_client.json"
    config = json.loads(file.read_text())
    config["executors"][0]["executor"]["args"]["algorithm"] = "{$HOSPITAL_DATABASE} is what I want"
    file.write_text(json.dumps(config))
    with connect(load(mesh.file), mesh.folder) as session:
        run_id = session.submit(job)
        assert session.wait(run_id, 60.0)
    written = [path.read_bytes() for path in (mesh.folder / "local").rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in content for content in written)
