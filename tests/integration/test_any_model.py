"""Models as people bring them train at four real sites, and give what the simulator gives."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flaremesh.deploy.runs.results import load_run
from flaremesh.runtime.simulate import simulation_of
from flaremesh.topology.load import load
from flaremesh.topology.mesh import build
from ports import LinkPorts, free_port

SITES = ("heidelberg", "bonn", "aachen", "ulm")
MODELS = ("channels-last", "transformer", "gru", "segmentation", "autoencoder", "frozen", "bfloat16")
TWO_EXCHANGES = "segmentation@gradient-tracking-atc"
ALWAYS = ("gru", "bfloat16", TWO_EXCHANGES)
"""Those that `make test` trains, too."""


class FourSites:
    """A ring of four; each model has a topology file of its own, all of the same mesh."""

    def __init__(self, folder: Path, ports: LinkPorts):
        self.folder = folder
        self.topologies = folder / "topologies"
        self.topologies.mkdir()
        shutil.copy(Path(__file__).parent / "packages/brought.py", self.topologies)
        self._document: dict[str, Any] = {
            "apiVersion": "flaremesh/v1",
            "name": "models",
            "server": {"host": "localhost", "port": free_port(), "org": "consortium"},
            "admins": [{"email": "admin@example.org", "org": "consortium", "role": "lead"}],
            "sites": [
                {"name": site, "org": "consortium", "link": {"host": "localhost", "ports": f"{low}-{high}"}}
                for site, (low, high) in zip(SITES, ports.ranges, strict=True)
            ],
            "graph": {"kind": "ring"},
            "code": {"files": True},
        }

    def file(self, model: str) -> Path:
        """The topology file whose run trains a model, with the algorithm after an @ if there is one."""
        model, _, algorithm = model.partition("@")
        run: dict[str, Any] = {
            "algorithm": algorithm or "gradient-tracking",
            "iterations": 8,
            "evaluate_every": 4,
            "stepsize": 0.05,
            # masks are others in each run, and so are the last bits of what comes out
            "privacy": {"masked_start": False},
            "problem": {"file": "brought.py", "name": "Brought"},
        }
        run["problem"]["args"] = {"model": model}
        file = self.topologies / f"{model}.yaml"
        file.write_text(yaml.safe_dump(self._document | {"run": run}))
        return file

    def call(self, command: str, model: str, *options: str) -> str:
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "flaremesh.cli.main", command),
                *(str(self.file(model)), "--output", str(self.folder / "out"), *options),
            ],
            capture_output=True,
            text=True,
            cwd=self.folder,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FourSites]:
    ports = LinkPorts(len(SITES))
    mesh = FourSites(tmp_path_factory.mktemp("models"), ports)
    # where the mesh is started lies another file of that name, which no site must take for the job's
    (mesh.folder / "brought.py").write_text("raise RuntimeError('this is the wrong file')")
    mesh.call("up", MODELS[0])
    yield mesh
    mesh.call("down", MODELS[0])
    ports.release()


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(model, marks=() if model in ALWAYS else pytest.mark.full)
        for model in (*MODELS, TWO_EXCHANGES)
    ],
)
def test_a_model_trains_at_real_sites_as_in_the_simulator(mesh: FourSites, model: str) -> None:
    ran = json.loads(mesh.call("run", model, "--json"))
    topology = load(mesh.file(model))
    with simulation_of(topology.run, build(topology)) as simulation:
        simulation.run()
    simulated = simulation.document()["metrics"]
    assert {name: site["metrics"] for name, site in ran["sites"].items()} == simulated
    folder = mesh.folder / "out/runs" / ran["run_id"]
    run = load_run(folder)
    for site in SITES:
        first, *_, last = run.histories[site].evaluations
        assert last.metrics["loss"] < first.metrics["loss"]
        assert all(math.isfinite(value) for value in last.metrics.values())
        assert (folder / site / "model.safetensors").exists()
