"""``flaremesh algorithms``: what the library has, and what of it a graph bears."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from flaremesh.algorithms import names
from flaremesh.cli.main import app

EDGES = [("heidelberg", "bonn"), ("bonn", "aachen"), ("aachen", "heidelberg"), ("heidelberg", "aachen")]
ONE_WAY = {"directed": True, "edges": [{"from": source, "to": target} for source, target in EDGES]}
PROVISION = Path(__file__).parents[3] / "provision"


def listed(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["algorithms", *map(str, arguments)], env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_all_are_listed_with_the_paper_that_published_them():
    found = json.loads(listed("--json"))
    assert list(found) == names()
    assert all(described["paper"] for described in found.values())
    assert found["k-gt"]["messages"] == [{"vectors": 2, "scalars": 0, "sums": 1, "averaged": 0}]
    assert "unsound" not in found["k-gt"]
    table = listed()
    assert all(name in table and described["paper"] in table for name, described in found.items())
    assert "2 vectors, in 2 messages" in table
    assert "1 vector and 1 number" in table


@pytest.mark.parametrize(
    ("graph", "weights", "sound", "unsound"),
    [
        ({"kind": "ring"}, "metropolis", {"extra", "k-gt", "push-sum"}, set()),
        (ONE_WAY, "push-sum", {"push-diging", "sgp"}, {"extra", "k-gt"}),
    ],
)
def test_with_a_topology_file_it_says_which_are_sound(tmp_path, graph, weights, sound, unsound):
    document = yaml.safe_load((PROVISION / "ring3-consensus.yaml").read_text())
    document |= {"graph": graph, "weights": weights}
    file = tmp_path / "mesh.yaml"
    file.write_text(yaml.safe_dump(document))
    found = json.loads(listed(file, "--json"))
    assert {name for name in sound if found[name]["unsound"] is None} == sound
    assert {name for name in unsound if found[name]["unsound"]} == unsound
    assert ("sound" in listed(file)) == bool(sound)
