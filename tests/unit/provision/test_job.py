"""The NVFlare job that a run becomes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvflare.apis.job_def import JobMetaKey
from nvflare.fuel.utils.zip_utils import zip_directory_to_file
from nvflare.private.fed.server.job_meta_validator import JobMetaValidator

from flaremesh.p2p.extra import privacy_of
from flaremesh.p2p.gate import order
from flaremesh.p2p.types import Config
from flaremesh.problems.delivery import DeliveredProblem
from flaremesh.provision.job import write_job
from flaremesh.provision.plan import plan
from flaremesh.topology.mesh import build


def controller(job: Path) -> dict[str, Any]:
    config = json.loads((job / "app_server/config/config_fed_server.json").read_text())
    return config["workflows"][0]["args"]


def executor(job: Path) -> dict[str, Any]:
    config = json.loads((job / "app_sites/config/config_fed_client.json").read_text())
    return config["executors"][0]["executor"]["args"]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return tmp_path / "job"


def test_nvflare_accepts_the_job(job: Path, make_topology, tmp_path: Path) -> None:
    write_job(make_topology(), job, name="first")
    archive = tmp_path / "job.zip"
    zip_directory_to_file(str(tmp_path), "job", str(archive))
    valid, error, meta = JobMetaValidator().validate("job", str(archive))
    assert valid, error
    assert meta[JobMetaKey.JOB_NAME.value] == "first"


def test_the_job_runs_on_all_sites_of_the_topology_and_needs_every_one(job: Path, make_topology) -> None:
    write_job(make_topology("bonn", "ulm", "worms"), job, name="first")
    meta = json.loads((job / "meta.json").read_text())
    assert meta["deploy_map"] == {"app_server": ["server"], "app_sites": ["bonn", "ulm", "worms"]}
    assert meta["min_clients"] == 3
    assert meta["mandatory_clients"] == ["bonn", "ulm", "worms"]


def test_the_result_will_say_what_the_plan_predicts(job: Path, make_topology) -> None:
    consensus = {
        "algorithm": "consensus",
        "iterations": 10,
        "problem": {"path": "flaremesh.problems.consensus.Consensus"},
    }
    topology = make_topology(run=consensus | {"wire": "top-k"})
    write_job(topology, job, name="first")
    labels = controller(job)["labels"]
    assert labels["predicted_contraction"] == plan(topology).mixing.predicted_contraction


def test_a_site_with_gpus_asks_for_them(job: Path, make_topology) -> None:
    sites = [{"name": "bonn", "org": "ukb", "gpus": 2}, {"name": "ulm", "org": "uku"}]
    write_job(make_topology(sites=sites), job, name="first")
    assert json.loads((job / "meta.json").read_text())["resource_spec"] == {"bonn": {"num_of_gpus": 2}}


@pytest.mark.parametrize(
    ("graph", "weights"),
    [
        ({"kind": "ring"}, "metropolis"),
        ({"kind": "ring", "directed": True}, "push-sum"),
        ({"kind": "star"}, "lazy"),
        ({"kind": "one-peer-exponential"}, "uniform"),
    ],
)
def test_the_controller_gets_the_mixing_matrices_of_the_topology(
    job: Path, make_topology, graph, weights
) -> None:
    topology = make_topology("bonn", "heidelberg", "ulm", "worms", graph=graph, weights=weights)
    write_job(topology, job, name="first")
    given = Config(**controller(job)["config"]).network.matrices()
    np.testing.assert_array_equal(given, build(topology).matrices)


def test_the_sites_get_the_run_of_the_topology(job: Path, make_topology) -> None:
    run = {
        "algorithm": "gtadam",
        "iterations": 7,
        "stepsize": 0.25,
        "options": {"beta1": 0.8},
        "seed": 3,
        "peer_timeout": 9.0,
        "wire": "int8",
        "problem": {"path": "our_models.Segmentation", "args": {"width": 8}},
    }
    write_job(make_topology(run=run), job, name="first")
    assert executor(job) == {"algorithm": "gtadam"}
    problem = DeliveredProblem.of(job / "app_sites")
    assert (problem.path, problem.said.args) == ("our_models.Segmentation", {"width": 8})
    extra = controller(job)["config"]["extra"]
    expected = {"iterations": 7, "stepsize": 0.25, "beta1": 0.8, "seed": 3, "peer_timeout": 9.0}
    expected["wire"] = {"encoding": "int8"}
    assert extra.items() >= expected.items()


def test_a_problem_in_a_file_travels_with_the_job_to_the_sites(
    job: Path, make_topology, tmp_path: Path
) -> None:
    file = tmp_path / "segmentation.py"
    file.write_text("class Segmentation: ...\n")
    problem = {"file": file, "name": "Segmentation"}
    run = {"algorithm": "dgd", "iterations": 1, "stepsize": 1, "problem": problem}
    write_job(make_topology(run=run, code={"files": True}), job, name="first")
    problem = DeliveredProblem.of(job / "app_sites")
    assert (problem.said.file, problem.said.name) == (Path("segmentation.py"), "Segmentation")
    assert (job / "app_sites/custom/segmentation.py").read_text() == file.read_text()
    assert not (job / "app_server/custom").exists()


def test_the_job_has_an_order_for_the_sites_and_edges_of_the_topology(job: Path, make_topology) -> None:
    directed = {"kind": "ring", "directed": True}
    write_job(make_topology("bonn", "ulm", "worms", graph=directed), job, name="first")
    asked = order.read(job / "app_sites")
    assert (asked.mesh, asked.sites, asked.links) == ("ring", ("bonn", "ulm", "worms"), "auto")
    assert asked.edges == {"bonn": ("ulm",), "ulm": ("worms",), "worms": ("bonn",)}
    assert asked.files == order.digests(job / "app_sites")
    assert order.read(job / "app_server").run == asked.run
    assert asked.targets == asked.sites
    assert order.read(job / "app_server").targets == ("server",)


def test_sites_are_asked_for_the_noise_that_a_privacy_budget_needs(job: Path, make_topology) -> None:
    run = {
        "algorithm": "dgd",
        "iterations": 7,
        "stepsize": 0.25,
        "on_loss": "fail",
        "privacy": {"epsilon": 8, "delta": 1e-5, "clip": 1.0},
        "problem": {"path": "flaremesh.problems.digits.Digits"},
    }
    topology = make_topology(run=run)
    planned = plan(topology).privacy
    write_job(topology, job, name="first")
    asked = order.read(job / "app_sites").privacy
    assert planned is not None
    assert (asked.epsilon, asked.sigma) == (8, planned.sigma)
    assert privacy_of(controller(job)["config"]["extra"]) == asked
    again = plan(topology.model_copy(update={"run": topology.run.model_copy(update={"privacy": asked})}))
    assert again.privacy == planned
