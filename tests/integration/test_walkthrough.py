"""The walkthrough's examples, in NVFlare's simulator and on a mesh that was started from its kits."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from nvflare.job_config.api import FedJob
from running_mesh import START_SECONDS
from safetensors.torch import load_file
from walkthrough.consensus import consensus_job
from walkthrough.digits import CLASSES, digits_job
from walkthrough.two_moons import two_moons_job

from flaremesh.deploy.runs.session import connect
from flaremesh.deploy.targets.local import LocalTarget
from flaremesh.p2p.outcome import RUN_FOLDER
from flaremesh.provision.kits import provision
from flaremesh.topology.load import load
from flaremesh.topology.schema import Topology
from ports import free_port

SITES = ("site-1", "site-2", "site-3")
RUN_SECONDS = 120.0

pytestmark = pytest.mark.timeout(300)


@dataclass
class Left:
    """What a run left behind: result.json, and NVFlare's run directory at every site."""

    result: dict[str, Any]
    sites: dict[str, Path]

    def sequences(self, name: str) -> dict[str, torch.Tensor]:
        return {site: torch.load(folder / name) for site, folder in self.sites.items()}


Runner = Callable[[FedJob], Left]


@pytest.fixture
def in_simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the simulated sites share this machine

    def run(job: FedJob) -> Left:
        assert job.simulator_run(str(tmp_path)) == 0
        result = json.loads((tmp_path / "server/simulate_job" / RUN_FOLDER / "result.json").read_text())
        return Left(result, {site: tmp_path / site / "simulate_job" for site in SITES})

    return run


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Topology, Path]]:
    """A mesh that is up, and its folder."""
    folder = tmp_path_factory.mktemp("mesh")
    file = folder / "walkthrough.yaml"
    document = {
        "apiVersion": "flaremesh/v1",
        "name": "walkthrough",
        "server": {"host": "localhost", "port": free_port(), "org": "consortium"},
        "admins": [{"email": "admin@example.org", "org": "consortium", "role": "project_admin"}],
        "sites": [{"name": site, "org": "consortium"} for site in SITES],
        "graph": {"kind": "ring"},
        "code": {"files": True},  # the executors travel with the job
        "run": {
            "algorithm": "consensus",
            "iterations": 1,
            "problem": {"path": "flaremesh.problems.consensus.Consensus"},
        },
    }
    file.write_text(yaml.safe_dump(document))
    topology = load(file)
    provision(topology, folder)
    target = LocalTarget(topology, folder)
    try:
        target.up(START_SECONDS)
        yield topology, folder
    finally:
        target.down()


@pytest.fixture
def on_a_mesh(mesh: tuple[Topology, Path]) -> Runner:
    topology, folder = mesh

    def run(job: FedJob) -> Left:
        job.export_job(str(folder / "jobs"))
        with connect(topology, folder) as session:
            run_id = session.submit(folder / "jobs" / job.name)
            assert session.wait(run_id, RUN_SECONDS)
            assert session.job(run_id).status == "FINISHED:COMPLETED"
            result = json.loads(session.download(run_id, f"{RUN_FOLDER}/result.json") or b"")
        for site in SITES:
            page = (folder / "local" / site / "metrics" / "slot-0.prom").read_text()
            iterations = float(result["sites"][site]["iterations"])
            assert f'flaremesh_current_iteration{{slot="0"}} {iterations}' in page
        return Left(result, {site: folder / "local" / site / run_id for site in SITES})

    return run


@pytest.fixture(params=["in_simulator", "on_a_mesh"])
def run(request: pytest.FixtureRequest) -> Runner:
    return request.getfixturevalue(request.param)


def test_a_directed_ring_takes_all_sites_to_the_mean(run: Runner):
    initial = {"site-1": 1.0, "site-2": 5.0, "site-3": 12.0}
    left = run(consensus_job(initial, iterations=100))
    values = torch.stack(list(left.sequences("value_sequence.pt").values()), dim=1).numpy()
    (matrix,) = left.result["graph"]["matrices"]
    expected = [np.linalg.matrix_power(matrix, k) @ list(initial.values()) for k in range(101)]
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    np.testing.assert_allclose(values[-1], np.mean(list(initial.values())), rtol=1e-5)
    for name, user in (("site-1", "site-3"), ("site-2", "site-1"), ("site-3", "site-2")):
        site = left.result["sites"][name]
        assert site["iterations"] == 100
        assert site["sent_bytes"].keys() == {user}


def test_nvflares_own_client_submits_an_exported_job_once(mesh: tuple[Topology, Path], tmp_path: Path):
    topology, folder = mesh
    job = consensus_job({"site-1": 1.0, "site-2": 5.0, "site-3": 12.0}, iterations=5)
    job.export_job(str(tmp_path))
    client = Path(sys.executable).with_name("nvflare")
    submit = [client, "job", "submit", "-j", tmp_path / job.name]
    outcomes = []
    for _ in range(2):
        told = subprocess.run(
            [*submit, "--startup-kit", folder / "kits/admin@example.org"],
            env=os.environ | {"HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        run_id = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", told.stdout + told.stderr)
        assert run_id is not None
        with connect(topology, folder) as session:
            assert session.wait(run_id[0], RUN_SECONDS)
            outcomes.append(session.job(run_id[0]))
    first, second = outcomes
    assert first.status == "FINISHED:COMPLETED"
    assert set(second.refusals) == set(SITES)
    assert all("export it again" in reason for reason in second.refusals.values())


@pytest.mark.parametrize(
    ("run", "algorithm"),
    [
        ("in_simulator", "gtadam"),
        ("on_a_mesh", "gtadam"),
        pytest.param("on_a_mesh", "gt", marks=pytest.mark.full),
        pytest.param("on_a_mesh", "dgd", marks=pytest.mark.full),
    ],
    indirect=["run"],
)
def test_every_algorithm_tells_the_moons_apart_at_every_site(run: Runner, algorithm: str):
    left = run(two_moons_job(algorithm))
    for name in ("train_loss_sequence.pt", "test_loss_sequence.pt"):
        for losses in left.sequences(name).values():
            assert losses[-1, 1] < losses[0, 1] / 2
    for name, site in left.result["sites"].items():
        assert site["metrics"]["accuracy"] > 0.9
        model = load_file(left.sites[name] / RUN_FOLDER / "model.safetensors")
        assert sum(parameter.numel() for parameter in model.values()) == 2 * 32 + 32 + 32 * 2 + 2


def test_every_site_learns_the_digits_that_it_never_saw(run: Runner):
    left = run(digits_job())
    for name, site in left.result["sites"].items():
        assert site["metrics"]["accuracy"] > 2 * len(CLASSES[name]) / 10
