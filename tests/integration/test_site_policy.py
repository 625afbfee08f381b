"""A site's own admin decides what runs there, while the mesh is up, and can prove it afterwards."""

import json
import subprocess
import sys

from command_mesh import finished
from running_mesh import wait_until


def at_bonn(mesh, *arguments):
    """What a command of the site's admin prints."""
    command = [sys.executable, "-m", "flaremesh", *arguments, str(mesh.folder / "local/bonn")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def pending(mesh):
    return json.loads(at_bonn(mesh, "pending", "--json"))


def events(mesh):
    return [json.loads(line) for line in at_bonn(mesh, "audit", "show", "--json").splitlines()]


def test_a_run_is_refused_by_a_rule_waits_for_a_person_and_is_in_the_log(make_mesh):
    mesh = make_mesh("decides")
    assert mesh.call("provision").returncode == 0
    policy = mesh.folder / "kits/bonn/policy.yaml"
    assert mesh.call("up").returncode == 0

    policy.write_text("algorithms: [dgd]\n")  # the site's first, while it runs
    refused = mesh.call("run")
    assert refused.returncode == 1
    assert "bonn: algorithms: 'consensus' is not among dgd" in refused.stderr
    assert not (mesh.folder / "local/bonn" / events(mesh)[-1]["job"]).exists()

    policy.write_text("approval: required\n")  # while the site runs
    run = mesh.start("run", "--json")
    wait_until(lambda: pending(mesh), 60)
    (waiting,) = json.loads(mesh.call("pending", "--site", "bonn", "--json").stdout)
    assert waiting["request"]["submitter"] == "admin@example.org"
    assert waiting["request"]["peers"] == ["aachen", "heidelberg"]
    at_bonn(mesh, "approve", waiting["request"]["run"])
    ended = finished(run)
    assert ended.returncode == 0, ended.stderr
    assert "bonn: waits for approval" in ended.stderr
    result = json.loads(ended.stdout)

    wait_until(lambda: events(mesh)[-1]["event"] == "ended", 30)
    assert at_bonn(mesh, "audit", "verify").startswith("6 lines")
    shown = events(mesh)
    assert [entry["event"] for entry in shown] == [
        "started",
        "refused",
        "waits",
        "approved",
        "let in",
        "ended",
    ]
    let_in, last = shown[-2:]
    assert let_in["job"] == last["job"] == result["run_id"]
    left = last["told_by_its_process"]
    assert left["sent_bytes"] == result["sites"]["bonn"]["sent_bytes"]
    assert left["links"] == result["sites"]["bonn"]["links"]
    assert mesh.call("down").returncode == 0


def test_a_site_whose_policy_has_mistakes_says_so_when_the_mesh_starts(make_mesh):
    mesh = make_mesh("mistaken")
    assert mesh.call("provision").returncode == 0
    (mesh.folder / "kits/bonn/policy.yaml").write_text("aproval: required\n")

    up = mesh.call("up")

    assert up.returncode == 1
    assert "line 1: aproval: there is no such field; did you mean approval?" in up.stderr
