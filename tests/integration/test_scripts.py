"""A script for NVFlare's Client API trains over real links, to the bit as in the simulator."""

import re
import shutil
import threading
from pathlib import Path

import psutil
import pytest
import yaml
from running_mesh import running_mesh
from safetensors.torch import load_file

from flaremesh.deploy.runs.results import RUNS
from flaremesh.deploy.runs.run import run
from flaremesh.p2p.outcome import MODEL, RUN_FOLDER
from flaremesh.runtime.history import HISTORY, History
from flaremesh.runtime.simulate import simulation_of
from flaremesh.topology.mesh import build

DIGITS = Path(__file__).parents[2] / "provision" / "digits-ring4.yaml"
PLAIN = Path(__file__).parents[1] / "scripts" / "plain"


def mesh_file(folder: Path, sites: int) -> Path:
    """A topology file beside a script, for so many sites."""
    shutil.copytree(PLAIN, folder, ignore=shutil.ignore_patterns("__pycache__"))
    document = yaml.safe_load(DIGITS.read_text())
    problem = {"script": "train.py", "model": "net.Net", "args": ["--steps", 10]}
    asked = {"algorithm": "local-dgd", "stepsize": 1, "iterations": 6, "problem": problem}
    document |= {"graph": {"kind": "complete"}, "code": {"files": True}, "run": asked}
    document["sites"] = document["sites"][:sites]
    file = folder / "mesh.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.mark.parametrize("sites", [2, pytest.param(4, marks=pytest.mark.full)])
def test_sites_train_with_a_script_as_in_the_simulator_and_say_why_one_fails(
    tmp_path: Path, sites: int
) -> None:
    with running_mesh(tmp_path, mesh_file(tmp_path / "mine", sites)) as mesh:
        result = mesh.run("scripts")
        models = {
            site: load_file(mesh.workspace(site) / result.run_id / RUN_FOLDER / MODEL)
            for site in result.sites
        }
        logs = [
            History.read(mesh.folder / RUNS / result.run_id / site / HISTORY).log for site in result.sites
        ]
        broken = mesh.topology.run.problem.model_copy(update={"args": ("--steps", "many")})
        changed = mesh.topology.run.model_copy(update={"problem": broken})
        failing = mesh.topology.model_copy(update={"run": changed})
        failed = run(failing, mesh.target, mesh.folder, "broken", lambda *_: None, threading.Event())
    assert failed.outcome == "failed"
    assert re.search(
        rf"of ({'|'.join(result.sites)}).* train\.py ended with exit status 2.*invalid int", failed.reason
    )
    assert len(models) == sites
    for log in logs:
        # of 7 models, since the first one precedes the first iteration
        assert [each.step for each in log] == list(range(70))[: len(log)]
        assert len(log) >= 60
        assert log[-1].logged["train/loss"] < log[0].logged["train/loss"] / 2
    assert not [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(tmp_path) in word for word in process.info["cmdline"] or ())
    ]
    assert all(site.metrics["accuracy"] > 0.8 for site in result.sites.values()), result
    with simulation_of(mesh.topology.run, build(mesh.topology)) as simulation:
        simulation.run()
    for name, site in simulation.sites.items():
        expected = site.problem.state(site.estimate)
        assert all(expected[key].equal(value) for key, value in models[name].items()), name
