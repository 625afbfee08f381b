"""``flaremesh sweep``: a grid of settings in the simulator."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from flaremesh.cli.main import app
from flaremesh.runtime.simulate import Simulation

PROVISION = Path(__file__).parents[3] / "provision"


@pytest.fixture
def mesh(tmp_path):
    document = yaml.safe_load((PROVISION / "digits-ring4.yaml").read_text())
    document["run"] |= {"iterations": 30, "evaluate_every": 1, "stepsize": 0.05}
    file = tmp_path / "mesh.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def call(*arguments):
    return CliRunner().invoke(app, ["sweep", *map(str, arguments)], env={"COLUMNS": "200"})


def test_every_combination_is_tried_and_told_of(mesh):
    result = call(mesh, "--vary", "run.stepsize=0.01,0.05", "--vary", "graph.kind=ring,complete", "--json")
    assert result.exit_code == 0, result.output
    trials = json.loads(result.stdout)
    assert [tuple(trial["fields"].values()) for trial in trials] == [
        (0.01, "ring"),
        (0.01, "complete"),
        (0.05, "ring"),
        (0.05, "complete"),
    ]
    assert all(trial["iterations"] == 30 and trial["metrics"]["accuracy"] > 0 for trial in trials)
    ring, complete = trials[:2]
    assert complete["sent_bytes"] == pytest.approx(1.5 * ring["sent_bytes"])
    assert complete["consensus_distance"] < ring["consensus_distance"]


def test_a_target_stops_a_run_and_shows_what_local_steps_save(mesh):
    k_gt = ("--vary", "run.algorithm=k-gt", "--vary", "run.local_steps=1,10")
    result = call(mesh, *k_gt, "--until", "accuracy=0.6", "--json")
    assert result.exit_code == 0, result.output
    one, ten = json.loads(result.stdout)
    assert ten["reached"]
    assert 3 * ten["sent_bytes"] < one["sent_bytes"]
    table = call(mesh, *k_gt, "--until", "accuracy=0.99")
    assert table.exit_code == 0
    assert table.stdout.count("30, not reached") == 2


def test_a_combination_that_cannot_run_is_told_of_beside_those_that_can(mesh):
    result = call(mesh, "--vary", "run.algorithm=sgp,extra,adam", "--vary", "graph.directed=true,false")
    assert result.exit_code == 0, result.output
    assert "there is no algorithm adam" in result.stdout
    assert "extra is not sound on this graph" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--vary", "run.stepsize"), "is not FIELD=VALUE"),
        (("--vary", "run.stepsize=-1"), "run.stepsize"),
        (("--vary", "run.stepsiez=1"), "run.stepsiez: there is no such field; did you mean stepsize?"),
        (("--vary", "name.first=a"), "name has no fields of its own"),
        (("--vary", "run.stepsize=0.1", "--until", "accuracy"), "is not METRIC=VALUE"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_anything_runs(mesh, arguments, message):
    result = call(mesh, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_what_was_tried_before_ctrl_c_is_shown(mesh, monkeypatch):
    steps, counted = Simulation.steps, []

    def interrupted(simulation):
        counted.append(simulation)
        if len(counted) == 2:
            raise KeyboardInterrupt
        return steps(simulation)

    monkeypatch.setattr(Simulation, "steps", interrupted)
    result = call(mesh, "--vary", "run.stepsize=0.01,0.05,0.1", "--json")
    assert result.exit_code == 130
    assert "Interrupted after 1 of 3 runs." in result.stderr
    assert [trial["fields"] for trial in json.loads(result.stdout)] == [{"run.stepsize": 0.01}]
