"""A job without code of its own runs none: what it names is refused before anything of it is imported."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_mesh import SITES

from flaremesh.deploy.runs.session import connect
from flaremesh.provision.job import write_job
from flaremesh.topology.load import load

END_SECONDS = 60.0


@pytest.fixture
def job(mesh, tmp_path: Path) -> Path:
    """A job whose ``config`` holds a Python file that leaves a trace when it is imported."""
    folder = tmp_path / "job"
    write_job(load(mesh.file), folder, name="trojan")
    (folder / "app_sites/config/trojan.py").write_text(
        f"open({str(tmp_path / 'imported')!r}, 'w').close()\nclass Trojan:\n    weights = None\n"
    )
    return folder


def component(path: str, arguments: dict[str, str]) -> Callable[[Path], None]:
    def name_it(app: Path) -> None:
        file = app / "config/config_fed_client.json"
        config = json.loads(file.read_text())
        config["components"] = [{"id": "trojan", "path": path, "args": arguments}]
        file.write_text(json.dumps(config))

    return name_it


def algorithm(app: Path) -> None:
    file = app / "config/config_fed_client.json"
    config = json.loads(file.read_text())
    config["executors"][0]["executor"]["args"]["algorithm"] = "config.trojan.Trojan"
    file.write_text(json.dumps(config))


def problem(text: str) -> Callable[[Path], None]:
    return lambda app: (app / "config/problem.yaml").write_text(text) and None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (component("flaremesh.class_path.class_at", {"path": "trojan.Trojan"}), "is not in allow_list"),
        (algorithm, "does not allow config.trojan.Trojan"),
        (problem("file: trojan.py\nname: Trojan\nargs: {}\n"), "trojan.py did not arrive"),
    ],
    ids=["component", "algorithm", "problem"],
)
def test_code_beside_a_jobs_configuration_is_refused_and_not_imported(
    mesh, job: Path, tmp_path: Path, name, reason
) -> None:
    name(job / "app_sites")
    with connect(load(mesh.file), mesh.folder) as session:
        run_id = session.submit(job)
        assert session.wait(run_id, END_SECONDS)
        assert session.job(run_id).status != "FINISHED:COMPLETED"
    logs = [(mesh.folder / "local" / site / "console.log").read_text() for site in SITES]
    assert any(reason in log for log in logs)
    assert not (tmp_path / "imported").exists()
