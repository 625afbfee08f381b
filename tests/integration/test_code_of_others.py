"""A job of others runs no code that a site's kit does not allow: it is refused before any of it is loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_mesh import SITES

from flaremesh.deploy.runs.follow import reason_of
from flaremesh.deploy.runs.session import connect
from flaremesh.p2p.gate import order
from flaremesh.p2p.nvflare.jobs import Job
from flaremesh.provision.job import write_job
from flaremesh.topology.load import load

END_SECONDS = 60.0
SUBPROCESSES = "nvflare.app_common.launchers.subprocess_launcher.SubprocessLauncher"


@pytest.fixture
def job(mesh, tmp_path: Path) -> Path:
    """A job of the mesh's run."""
    folder = tmp_path / "job"
    write_job(load(mesh.file), folder, name="trojan")
    return folder


def beside(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """The same, with a Python file in ``config`` that leaves a trace when it is imported."""

    def plant(app: Path) -> None:
        change(app)
        trace = app.parents[1] / "imported"
        (app / "config/trojan.py").write_text(
            f"open({str(trace)!r}, 'w').close()\nclass Trojan:\n    weights = None\n"
        )

    return plant


def component(path: str, arguments: dict[str, str]) -> Callable[[Path], None]:
    def name_it(app: Path) -> None:
        file = app / "config/config_fed_client.json"
        config = json.loads(file.read_text())
        config["components"] = [{"id": "trojan", "path": path, "args": arguments}]
        file.write_text(json.dumps(config))

    return name_it


def algorithm(path: str) -> Callable[[Path], None]:
    def name_it(app: Path) -> None:
        file = app / "config/config_fed_client.json"
        config = json.loads(file.read_text())
        config["executors"][0]["executor"]["args"]["algorithm"] = path
        file.write_text(json.dumps(config))

    return name_it


def problem(text: str) -> Callable[[Path], None]:
    return lambda app: (app / "config/problem.yaml").write_text(text) and None


def submitted(mesh, job: Path) -> Job:
    """Hand a job over, after its author has listed all of it in its order, and wait for its end."""
    app = job / "app_sites"
    order.write(order.read(app), app)
    with connect(load(mesh.file), mesh.folder) as session:
        run_id = session.submit(job)
        assert session.wait(run_id, END_SECONDS)
        return session.job(run_id)


def refused_everywhere(ended: Job, reason: str) -> bool:
    return ended.refusals.keys() == set(SITES) and all(reason in told for told in ended.refusals.values())


CLASS_AT = component("flaremesh.class_path.class_at", {"path": "trojan.Trojan"})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (beside(CLASS_AT), "no job of flaremesh has, config.trojan.py"),
        (CLASS_AT, "does not allow flaremesh.class_path.class_at"),
        (component(SUBPROCESSES, {"script": "touch imported"}), f"does not allow {SUBPROCESSES}"),
        (algorithm("config.trojan.Trojan"), "does not allow config.trojan.Trojan"),
        (problem("file: trojan.py\nname: Trojan\nargs: {}\n"), "trojan.py did not arrive"),
        (problem("path: flaremesh.problems.reference.load_problem\nargs: {}\n"), "reference.load_problem"),
        (problem("path: faulty.Consensus\nargs: {}\n"), "faulty defines no class Consensus"),
    ],
    ids=["file", "component", "command", "algorithm", "problem", "function", "imported name"],
)
def test_what_a_kit_does_not_allow_is_refused_at_every_site_and_not_imported(
    mesh, job: Path, change, reason
) -> None:
    change(job / "app_sites")
    ended = submitted(mesh, job)
    assert ended.status != "FINISHED:COMPLETED"
    assert refused_everywhere(ended, reason), ended.details
    assert reason_of(ended).startswith(", ".join(ended.refusals))
    for site in SITES:
        assert reason in (mesh.folder / "local" / site / "console.log").read_text()
    assert not (job.parent / "imported").exists()


def test_a_captured_job_is_not_played_again(mesh, tmp_path: Path) -> None:
    job = tmp_path / "job"
    write_job(load(mesh.file), job, name="captured")
    assert submitted(mesh, job).status == "FINISHED:COMPLETED"
    shutil.copytree(job, tmp_path / "again")
    with connect(load(mesh.file), mesh.folder) as session:
        run_id = session.submit(tmp_path / "again")
        assert session.wait(run_id, END_SECONDS)
        assert refused_everywhere(session.job(run_id), "this run has begun before")
