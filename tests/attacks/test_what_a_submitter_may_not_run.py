"""A job runs what the kits of the sites list, and nothing else: the rest is refused before it is imported."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from attacked_mesh import SITES, AttackedMesh, attacked_mesh

from flaremesh.deploy.targets.base import DeployError

Tamper: TypeAlias = Callable[[Path, Path], None]
"""Changes the app of the sites so that code leaves a trace at a path."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedMesh]:
    with attacked_mesh(tmp_path_factory.mktemp("mesh")) as mesh:
        yield mesh


def edited(app: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = app / "config/config_fed_client.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


def component(path: str, /, **args: Any) -> Tamper:
    def tamper(app: Path, trace: Path) -> None:
        entry = {"id": "trojan", "path": path, "args": args}
        edited(app, lambda config: config.update(components=[entry]))

    return tamper


def executor(path: str, /, **args: Any) -> Tamper:
    def tamper(app: Path, trace: Path) -> None:
        edited(app, lambda config: config["executors"][0].update(executor={"path": path, "args": args}))

    return tamper


def algorithm(path: str) -> Tamper:
    return executor("flaremesh.p2p.executors.AlgorithmExecutor", algorithm=path)


def problem(**description: Any) -> Tamper:
    return lambda app, trace: (app / "config/problem.yaml").write_text(json.dumps(description)) and None


def trojan(app: Path, trace: Path, place: str) -> None:
    file = app / place
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"open({str(trace)!r}, 'w').close()\nclass Trojan: ...\n")


def beside(tamper: Tamper) -> Tamper:
    """With a file of code beside the configuration, which NVFlare has on Python's path."""

    def with_file(app: Path, trace: Path) -> None:
        trojan(app, trace, "config/trojan.py")
        tamper(app, trace)

    return with_file


def file_among_the_jobs_code(app: Path, trace: Path) -> None:
    trojan(app, trace, "custom/trojan.py")
    problem(file="trojan.py", name="Trojan")(app, trace)


def script_among_the_jobs_code(app: Path, trace: Path) -> None:
    trojan(app, trace, "custom/trojan.py")
    problem(script="trojan.py", model="trojan.Trojan")(app, trace)


def file_that_hides_an_installed_module(app: Path, trace: Path) -> None:
    trojan(app, trace, "paced.py")


def logging_by_any_function(app: Path, trace: Path) -> None:
    handler = {"()": "pathlib.Path.touch", "self": {"()": "pathlib.Path", "args": str(trace)}}
    (app / "config/log_config.json").write_text(json.dumps({"version": 1, "handlers": {"trojan": handler}}))


REFUSED: dict[str, tuple[Tamper, str]] = {
    "a file beside the configuration, imported by a function of flaremesh": (
        beside(component("flaremesh.class_path.class_at", path="trojan.Trojan")),
        "trojan",
    ),
    "a file beside the configuration, as a component": (beside(component("trojan.Trojan")), "trojan"),
    "a file beside the configuration, as an algorithm": (beside(algorithm("config.trojan.Trojan")), "trojan"),
    "a file beside the configuration, as a problem": (
        beside(problem(path="config.trojan.Trojan")),
        "trojan",
    ),
    "a file of the job as a problem": (file_among_the_jobs_code, "accepts no code of a job"),
    "a script of the job": (script_among_the_jobs_code, "accepts no code of a job"),
    "a file with the name of an installed module": (file_that_hides_an_installed_module, "paced.py"),
    "a function of flaremesh that imports what it is given": (
        component("flaremesh.class_path.class_at", path="subprocess.Popen"),
        "flaremesh.class_path.class_at",
    ),
    "a class of the standard library as a problem": (problem(path="subprocess.Popen"), "subprocess.Popen"),
    "a class of the standard library as an algorithm": (algorithm("subprocess.Popen"), "subprocess.Popen"),
    "a class that an allowed package has imported": (problem(path="paced.Path"), "defines no class Path"),
    "a class of flaremesh that is no problem": (
        problem(path="flaremesh.p2p.agents.janitor.Retention"),
        "flaremesh.p2p.agents.janitor.Retention",
    ),
    "a function of flaremesh as an executor": (
        executor("flaremesh.p2p.participant.main"),
        "flaremesh.p2p.participant.main",
    ),
    "a component of NVFlare that sends a site's log to the server": (
        component("nvflare.app_common.logging.job_log_streamer.JobLogStreamer"),
        "JobLogStreamer",
    ),
    "a component of NVFlare that writes where its arguments say": (
        component("nvflare.app_common.psi.file_psi_writer.FilePSIWriter", output_path="../../startup/x"),
        "FilePSIWriter",
    ),
    "a configuration of the log by any function": (logging_by_any_function, "log_config.json"),
}


@pytest.mark.parametrize(("tamper", "named"), REFUSED.values(), ids=REFUSED)
def test_what_the_kits_do_not_list_is_refused_by_every_site_and_leaves_no_trace(
    mesh: AttackedMesh, tmp_path: Path, tamper: Tamper, named: str
) -> None:
    job, trace = mesh.job(tmp_path / "job"), tmp_path / "imported"
    tamper(job / "app_sites", trace)
    refusals = mesh.refusals(job)
    assert refusals.keys() == set(SITES)
    assert all(named in reason for reason in refusals.values()), refusals
    assert all(b"flaremesh_refused_runs_total 0.0" not in mesh.get(site, "/metrics") for site in SITES)
    assert not trace.exists()


def test_a_submission_fills_in_no_variable_and_no_file_of_the_server(
    mesh: AttackedMesh, tmp_path: Path
) -> None:
    job = mesh.job(tmp_path / "job")
    meta = (job / "meta.json").rename(job / "meta.conf")
    meta.write_text(f'include file("{mesh.workspace("server")}/local/resources.json")\n{meta.read_text()}')
    with mesh.session() as session, pytest.raises(DeployError, match="must be JSON"):
        session.submit(job)
