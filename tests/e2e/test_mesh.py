"""A mesh on a cluster: installed, run, upgraded, disturbed."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import helm, kubectl, objects, pod, wait_until
from installed_mesh import ITERATIONS, Mesh


def test_all_pods_are_ready_under_the_restricted_standard_and_none_was_restarted(mesh: Mesh):
    for name, namespace in mesh.namespaces.items():
        labels = json.loads(kubectl("default", "get", "namespace", namespace, "--output", "json"))["metadata"]
        assert labels["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        conditions = pod(namespace, f"{name}-0")["status"]["conditions"]
        assert any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    assert set(mesh.restarts().values()) == {0}


@pytest.fixture(scope="module")
def result(mesh: Mesh) -> dict[str, Any]:
    return mesh.run()


def test_a_run_over_direct_links_is_as_accurate_as_on_one_machine(mesh: Mesh, result: dict[str, Any]):
    expected = mesh.simulated()
    assert result["outcome"] == "finished"
    for site, figures in result["sites"].items():
        assert figures["iterations"] == ITERATIONS
        assert set(figures["links"].values()) == {"direct"}
        assert figures["metrics"]["accuracy"] == pytest.approx(expected[site]["accuracy"], abs=0.01)


def test_the_fetched_result_is_complete(mesh: Mesh, result: dict[str, Any]):
    folder = mesh.folder / "runs" / result["run_id"]
    for site in mesh.topology.sites:
        lines = (folder / site.name / "history.jsonl").read_text().splitlines()
        assert sum("metrics" not in json.loads(line) for line in lines) == ITERATIONS
        assert (folder / site.name / "model.safetensors").stat().st_size > 0


def test_up_finds_what_an_admin_installed_and_status_shows_it(mesh: Mesh):
    before = mesh.uids()
    up = mesh.flaremesh("up")
    assert up.returncode == 0, up.stderr
    assert "Already up." in up.stdout
    assert mesh.uids() == before
    status = json.loads(mesh.flaremesh("status", "--json").stdout)
    assert status["ready"]
    assert sorted(status["registered"]) == sorted(site.name for site in mesh.topology.sites)


def test_an_upgrade_restarts_the_site_whose_value_changed_and_a_rollback_undoes_it(mesh: Mesh):
    before = mesh.uids()
    mesh.upgrade("aachen", "--set", "podAnnotations.note=changed")
    mesh.ready("aachen")
    after = mesh.uids()
    assert {name for name in after if after[name] != before[name]} == {"aachen"}
    namespace = mesh.namespaces["aachen"]
    assert pod(namespace, "aachen-0")["metadata"]["annotations"]["note"] == "changed"
    helm(namespace, "rollback", "aachen")
    mesh.ready("aachen")
    assert "note" not in pod(namespace, "aachen-0")["metadata"]["annotations"]


def test_the_doctor_tries_every_edge_and_finds_nothing_wrong(mesh: Mesh):
    doctor = mesh.flaremesh("doctor", "--json")
    assert doctor.returncode == 0, doctor.stdout
    edges = [edge for edge in json.loads(doctor.stdout)["links"] if edge["kind"] == "direct"]
    assert len(edges) == 2 * len(mesh.topology.sites)
    assert all(edge["ok"] for edge in edges)


def test_a_site_logs_out_when_its_pod_is_stopped(mesh: Mesh):
    namespace = mesh.namespaces["bonn"]
    stopped = pod(namespace, "bonn-0")["metadata"]["uid"]
    kubectl(namespace, "delete", "pod", "bonn-0")
    log = kubectl(mesh.namespaces["server"], "logs", "server-0")
    assert (
        "bonn"
        in [line for line in log.splitlines() if "left" in line or "removed" in line or "quit" in line][-1]
    )
    # the StatefulSet may still tell of the pod that is gone
    wait_until(lambda: {o["metadata"]["uid"] for o in objects(namespace, "pods")} - {stopped}, 60)
    mesh.ready("bonn")


@contextmanager
def endless_run(mesh: Mesh, file: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """A run that iterates, in a terminal of its own; it must end in the block."""
    with mesh.start("run", "--iterations", str(10**6), file=file) as run:
        assert run.stderr
        assert any(": running" in line for line in run.stderr)
        yield run


def test_a_ctrl_c_in_the_terminal_aborts_the_run_and_kubectl_does_not_end_before(mesh: Mesh):
    with endless_run(mesh) as run:
        os.killpg(run.pid, signal.SIGINT)  # all that runs in a terminal gets it
        output, _ = run.communicate()
    assert run.returncode == 130
    assert "aborted" in output
    assert json.loads(mesh.flaremesh("status", "--json").stdout)["runs"] == []


def test_a_pod_that_is_killed_fails_by_its_name_a_run_that_waits_for_nobody(mesh: Mesh, tmp_path: Path):
    document = yaml.safe_load(mesh.file.read_text())
    document["run"]["on_loss"] = "fail"
    file = tmp_path / "mesh.yaml"
    file.write_text(yaml.safe_dump(document))
    namespace = mesh.namespaces["dresden"]
    with endless_run(mesh, file) as run:
        kubectl(namespace, "delete", "pod", "dresden-0", "--grace-period=0", "--force")
        _, errors = run.communicate()
    assert run.returncode == 1
    assert "dresden" in errors.splitlines()[-1]
    mesh.ready("dresden")


@pytest.mark.parametrize("name", ["server", "heidelberg"])
def test_helm_test_passes(mesh: Mesh, name: str):
    assert "Succeeded" in helm(mesh.namespaces[name], "test", name, "--timeout", "120s")
