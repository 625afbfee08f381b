"""A mesh as processes on this machine: up, run, status, down."""

import json

import pytest
from command_mesh import SITES, VALUES, finished, nothing_runs, running
from running_mesh import wait_until

MEAN = sum(VALUES.values()) / len(VALUES)


def means(result):
    return {site: outcome["metrics"]["value"] for site, outcome in result["sites"].items()}


def test_a_ring_of_three_agrees_on_the_mean_of_its_values(mesh):
    result = mesh.run()
    assert result["outcome"] == "finished"
    assert means(result) == pytest.approx(dict.fromkeys(SITES, MEAN))


def test_a_run_leaves_result_model_and_history_of_every_site(mesh):
    result = mesh.run("--iterations", "7", "--name", "seven")
    folder = mesh.folder / "runs" / result["run_id"]
    document = json.loads((folder / "result.json").read_text())
    assert (document["name"], document["iterations"], document["outcome"]) == ("seven", 7, "finished")
    for site in SITES:
        rows = [json.loads(row) for row in (folder / site / "history.jsonl").read_text().splitlines()]
        assert [row["iteration"] for row in rows if "metrics" not in row] == list(range(1, 8))
        assert (folder / site / "model.safetensors").stat().st_size > 0
        assert set(document["sites"][site]["sent_bytes"]) == set(SITES) - {site}
    assert (folder / "job" / "meta.json").exists()


def test_up_changes_nothing_where_everything_is_up(mesh):
    before = [mesh.process(name) for name in ("server", *SITES)]
    again = mesh.call("up")
    assert again.returncode == 0
    assert "Already up" in again.stdout
    assert [mesh.process(name) for name in ("server", *SITES)] == before


def test_two_runs_at_once_do_not_mix(mesh):
    other = {site: -value for site, value in VALUES.items()}
    problem = {"path": "flaremesh.problems.consensus.Consensus", "args": {"values": other}}
    runs = [
        mesh.start("run", "--json"),
        mesh.start("run", "--json", file=mesh.topology("consensus", problem)),
    ]
    first, second = (json.loads(finished(run).stdout) for run in runs)
    assert first["run_id"] != second["run_id"]
    assert means(first) == pytest.approx(dict.fromkeys(SITES, MEAN))
    assert means(second) == pytest.approx(dict.fromkeys(SITES, -MEAN))


def test_status_shows_who_is_ready_and_how_far_a_run_is(mesh):
    with mesh.endless() as run_id:
        wait_until(lambda: progressed(mesh.status(), run_id), 20)
        status = mesh.status()
    assert status["ready"]
    assert [participant["name"] for participant in status["participants"]] == ["server", *SITES]
    assert status["registered"] == sorted(SITES)


def progressed(status, run_id):
    (run,) = (run for run in status["runs"] if run["run_id"] == run_id)
    return run["state"] == "running" and all(
        run["sites"].get(site, {}).get("consensus_distance") is not None for site in SITES
    )


def test_two_meshes_on_one_machine_do_not_disturb_each_other(mesh, make_mesh):
    other = make_mesh("other")
    assert other.call("up").returncode == 0
    run = mesh.start("run", "--json")
    assert means(other.run()) == pytest.approx(dict.fromkeys(SITES, MEAN))
    assert other.call("down").returncode == 0
    assert nothing_runs(other)
    assert means(json.loads(finished(run).stdout)) == pytest.approx(dict.fromkeys(SITES, MEAN))
    assert mesh.status()["ready"]


def test_down_ends_a_run_in_progress_and_every_process(make_mesh):
    mesh = make_mesh("brief")
    assert mesh.call("up").returncode == 0
    run = mesh.start_endless(on_loss="fail")
    running(run)
    assert mesh.processes()
    assert "Stopped server, " in mesh.call("down").stdout
    assert nothing_runs(mesh)
    assert finished(run).returncode == 1
    again = mesh.call("down")
    assert (again.returncode, again.stdout) == (0, "Nothing was running.\n")
    assert not mesh.status()["ready"]


def test_a_damaged_record_of_the_processes_loses_none_of_them(mesh):
    record = mesh.folder / "local/processes.json"
    kept = record.read_text()
    before = mesh.status()
    record.write_text(kept[:20])
    assert mesh.status() == before
    record.write_text(kept)
