"""A receiver of NVFlare's that a site's own admin names hears of a run of that site."""

import json
import os
from pathlib import Path

import pytest
from running_mesh import START_SECONDS, RunningMesh

from flaremesh.deploy.runs.results import RUNS
from flaremesh.runtime.history import HISTORY, History

pytestmark = pytest.mark.full


def test_a_receiver_in_a_sites_kit_gets_its_history_and_no_other_site_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = [str(Path(__file__).parent / "packages"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(packages))
    mesh = RunningMesh(tmp_path)
    first, second, *_ = (site.name for site in mesh.topology.sites)
    named = {"id": "noted", "path": "noted.Noted", "args": {"file": "noted.jsonl"}}
    kit = tmp_path / "kits" / first / "local"
    (kit / "noted__j_resources.json").write_text(json.dumps({"format_version": 2, "components": [named]}))
    try:
        mesh.target.up(START_SECONDS)
        run = mesh.run("live").run_id
    finally:
        mesh.target.down()
        mesh.release()
    *noted, end = map(json.loads, (mesh.workspace(first) / run / "noted.jsonl").read_text().splitlines())
    history = History.read(mesh.folder / RUNS / run / first / HISTORY)
    distances = [
        [first, "consensus distance", each.consensus_distance, each.iteration] for each in history.iterations
    ]
    assert [line for line in noted if line[1] == "consensus distance"] == distances
    assert len(distances) == mesh.topology.run.iterations
    assert end == "end"
    assert not (mesh.workspace(second) / run / "noted.jsonl").exists()
