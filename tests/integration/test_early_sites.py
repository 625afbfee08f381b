"""Sites that ask a server which is still starting."""

import json
from pathlib import Path

from running_mesh import START_SECONDS, RunningMesh

from flaremesh.deploy.runs.session import connect
from flaremesh.topology.schema import Code


def test_a_server_that_was_asked_too_early_lets_admins_in_nevertheless(tmp_path, monkeypatch):
    mesh = RunningMesh(tmp_path, code=Code(packages=("late",)))
    late = {"format_version": 2, "components": [{"id": "late", "path": "late.Late", "args": {}}]}
    (tmp_path / "kits/server/local/late__p_resources.json").write_text(json.dumps(late))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "packages"))
    try:
        mesh.target.up(START_SECONDS)
        with connect(mesh.topology, mesh.folder) as session:
            assert session.sites() == {site.name for site in mesh.topology.sites}
    finally:
        mesh.target.down()
        mesh.release()
