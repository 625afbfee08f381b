"""Executors and controllers written for the stock package, each with its habits, in NVFlare's simulator."""

import json
from pathlib import Path

import pytest
import torch
from walkthrough.ported import (
    AuxExecutor,
    MaskedExecutor,
    NoisyExecutor,
    OwnController,
    PanickingExecutor,
    pairs_job,
)

from flaremesh.p2p.controllers import DistOptController
from flaremesh.p2p.executors import ConsensusExecutor
from flaremesh.p2p.outcome import RUN_FOLDER

ITERATIONS = 12
HALVED = [(4 - 2 * 0.5**k, 4 + 2 * 0.5**k) for k in range(ITERATIONS + 1)]  # of 2 and 6

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the simulated sites share this machine


def values(workspace: Path, first: int) -> torch.Tensor:
    """The sequences of a pair, where the stock package leaves them."""
    sites = [workspace / f"site-{site}" / "value_sequence.pt" for site in (first, first + 1)]
    return torch.stack([torch.load(site) for site in sites], dim=1)


def test_their_own_messages_and_loops_take_effect(tmp_path: Path):
    job = pairs_job(
        DistOptController,
        (AuxExecutor(2.0), AuxExecutor(6.0)),
        (MaskedExecutor(2), MaskedExecutor(6)),
        (NoisyExecutor(1, 0.0), NoisyExecutor(2, 1e6)),
        iterations=ITERATIONS,
        stepsize=0.1,
        stop_on_non_finite=False,
    )
    assert job.simulator_run(str(tmp_path)) == 0
    result = json.loads((tmp_path / "server/simulate_job" / RUN_FOLDER / "result.json").read_text())
    assert result["outcome"] == "finished"
    torch.testing.assert_close(values(tmp_path, 1), torch.tensor(HALVED))
    torch.testing.assert_close(values(tmp_path, 3), torch.tensor(HALVED))
    noise = torch.load(tmp_path / "site-5" / "train_loss_sequence.pt")
    assert noise[0, 1] > 1e9  # the first mixture is spoilt by what the neighbour has added


def test_a_control_flow_of_their_own_starts_the_executors(tmp_path: Path):
    job = pairs_job(OwnController, (ConsensusExecutor(2.0), ConsensusExecutor(6.0)), iterations=ITERATIONS)
    assert job.simulator_run(str(tmp_path)) == 0
    torch.testing.assert_close(values(tmp_path, 1), torch.tensor(HALVED))


def test_a_panic_of_their_own_ends_the_run_with_its_reason(tmp_path: Path):
    job = pairs_job(
        DistOptController, (PanickingExecutor(2.0), PanickingExecutor(6.0)), iterations=ITERATIONS
    )
    assert job.simulator_run(str(tmp_path)) != 0
    result = json.loads((tmp_path / "server/simulate_job" / RUN_FOLDER / "result.json").read_text())
    assert (result["outcome"], result["reason"]) == ("failed", "site-2: the data look wrong")
