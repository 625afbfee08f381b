"""A run with a privacy budget over real links: it ends where the simulator and the plan say, and tells it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from running_mesh import running_mesh, wait_until
from safetensors.torch import load_file

from flaremesh.checksum import sha256
from flaremesh.p2p.gate import audit
from flaremesh.p2p.gate.ledger import Ledger
from flaremesh.p2p.outcome import MODEL, RUN_FOLDER
from flaremesh.provision.plan import plan
from flaremesh.topology.schema import Run

SPENDING = {
    "algorithm": "dgd-atc",
    "stepsize": 0.05,
    "iterations": 500,
    "on_loss": "fail",
    "problem": {"path": "flaremesh.problems.digits.Digits"},
    "privacy": {"epsilon": 8, "delta": 1e-5, "clip": 1.0, "examples": 300, "sigma": 5.0},
}

NOTHING = {
    "path": "flaremesh.problems.consensus.Consensus",
    "args": {"values": dict.fromkeys(("heidelberg", "bonn", "aachen"), [0.0] * 50)},
}
CORRELATED = SPENDING | {
    "algorithm": "dgd",  # each keeps the noise of its last step
    "iterations": 3,
    "problem": NOTHING,
    "privacy": {"epsilon": 8, "delta": 1e-5, "clip": 1.0, "noise": "correlated", "correlation": 1e5},
}

pytestmark = pytest.mark.timeout(200)


def logged(workspace: Path) -> list[dict[str, Any]]:
    return list(audit.entries(workspace))


def test_a_run_ends_where_its_privacy_budget_is_spent_and_says_which_site_has_spent_what(
    tmp_path: Path,
) -> None:
    with running_mesh(tmp_path) as mesh:
        mesh.topology = mesh.topology.model_copy(update={"run": Run.model_validate(SPENDING)})
        planned = plan(mesh.topology).privacy
        assert planned is not None
        result = mesh.run("private")
        wait_until(lambda: logged(mesh.workspace("bonn"))[-1]["event"] == "ended", 30)
        let_in, ended = logged(mesh.workspace("bonn"))[-2:]
        left = Ledger(mesh.workspace("bonn")).spent("data", 1e-5)
        model = sha256(mesh.workspace("bonn") / ended["job"] / RUN_FOLDER / MODEL)
        shown = {site: mesh.metric(site, "privacy_epsilon_spent") for site in result.sites}
    assert 1 < planned.iterations < 500
    assert {site: known.iterations for site, known in result.sites.items()} == dict.fromkeys(
        ("heidelberg", "bonn", "aachen"), planned.iterations
    )
    assert (
        result.ended
        == f"every site has spent its privacy budget, ε 8 (δ 1e-05), after iteration {planned.iterations}"
    )
    spent = {site: known.epsilon for site, known in result.sites.items()}
    assert spent == dict.fromkeys(result.sites, pytest.approx(planned.spent))
    assert shown == spent
    assert let_in["request"]["privacy"]["epsilon"] == 8
    assert [ended["told_by_its_process"]["epsilon"], left] == [pytest.approx(planned.spent)] * 2
    assert ended["model"] == model


def test_noise_that_neighbours_share_over_real_links_cancels_in_the_mean(tmp_path: Path) -> None:
    with running_mesh(tmp_path) as mesh:
        mesh.topology = mesh.topology.model_copy(update={"run": Run.model_validate(CORRELATED)})
        result = mesh.run("correlated")
        files = [mesh.workspace(site) / result.run_id / RUN_FOLDER / MODEL for site in result.sites]
        models = [torch.cat([*load_file(file).values()]) for file in files]
    assert [known.epsilon for known in result.sites.values()] == [pytest.approx(8)] * 3
    hidden = min(float(model.norm()) for model in models)
    assert hidden > 1e3
    assert float(sum(models).norm()) < 1e-3 * hidden
