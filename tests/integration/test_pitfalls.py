"""What goes wrong with NVFlare's own nvflare.app_opt.p2p (2.9), and the tests that it cannot go wrong here.

Files lie in tests/unit unless they are integration tests; "here" is this file: what only real processes show.

    1  the class allow-list refuses the job      here
    2  a slow site ends in a run that hangs      here; p2p/test_executors.py
    3  a failed run looks like a success         here; integration/test_failures.py
    4  an exchange returns without values        p2p/test_executors.py
    5  messages alias live parameters            p2p/test_executors.py, p2p/test_message.py,
                                                 runtime/test_site_run.py
    6  no train mode, BatchNorm is not mixed     problems/test_module.py, runtime/test_site_run.py
    7  directed graphs are exchanged backwards   p2p/test_executors.py; integration/test_walkthrough.py
    8  weights are not checked                   here; p2p/test_types.py, p2p/test_executors.py
    9  frozen parameters crash or mix wrongly    problems/test_module.py
    10 a seed does not fix the random network    p2p/test_networks.py
    11 right for left eigenvector                topology/test_mixing.py
    12 GT's first exchange carries nothing       algorithms/test_gradient_tracking.py: the mean tracker is
                                                 the mean gradient from the first iteration on
    13 where DGD takes the gradient is hidden    algorithms/test_dgd.py
    14 GTAdam's small ε lets iterates drift      algorithms/test_gtadam.py
    15 sites start apart, no model is saved      p2p/test_executors.py; integration/test_walkthrough.py
    16 the MNIST example feeds labels in order   a flaw of that example; ours shuffles, and its accuracy is
       and reports no accuracy                   judged in integration/test_walkthrough.py
    17 site names must end in a number           here; p2p/test_executors.py
    18 all traffic is relayed by the server      integration/test_links.py
    19 the server can read parameters            integration/test_links.py: it carries none
    20 an isolated node sends to the server      here; p2p/test_executors.py
    21 any sender is heard, late values leak     p2p/test_executors.py, links/test_relay.py
    22 types cannot be pickled or copied         p2p/test_types.py
    23 no retry, no bfloat16, many arrays        links/test_relay.py; p2p/test_message.py,
                                                 p2p/test_executors.py; problems/test_module.py (one vector)
    24 val_dataloader is ignored                 p2p/test_executors.py
"""

import json
import re
import time
from pathlib import Path

import pytest
import torch
from nvflare.job_config.api import FedJob
from walkthrough.consensus import RingConsensusExecutor, consensus_job
from walkthrough.failing import RaisingExecutor, SlowExecutor

from flaremesh.p2p.controllers import DistOptController
from flaremesh.p2p.executors import ConsensusExecutor
from flaremesh.p2p.outcome import RUN_FOLDER
from flaremesh.p2p.types import Config, Neighbor, Network, Node

VALUES = {"hospital-a": 2.0, "new-york-1": 6.0, "lonely": 11.0}


def result_of(workspace: Path) -> dict:
    return json.loads((workspace / "server/simulate_job" / RUN_FOLDER / "result.json").read_text())


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """After a run of flaremesh's own consensus; one of the three sites has no neighbours."""
    nodes = [
        Node("hospital-a", [Neighbor("new-york-1", 0.25)]),
        Node("new-york-1", [Neighbor("hospital-a", 0.25)]),
        Node("lonely"),
    ]
    job = FedJob(name="consensus")
    job.to_server(DistOptController(config=Config(Network(nodes), {"iterations": 30})))
    for site, value in VALUES.items():
        job.to(ConsensusExecutor(initial_value=value), site)
    workspace = tmp_path_factory.mktemp("simulator")
    assert job.simulator_run(str(workspace)) == 0
    return workspace


def test_a_job_of_flaremeshs_own_classes_is_allowed_and_carries_no_code(workspace: Path):
    assert result_of(workspace)["outcome"] == "finished"
    assert not list(workspace.rglob("custom"))


def test_sites_of_any_name_take_part(workspace: Path):
    for site in ("hospital-a", "new-york-1"):
        values = torch.load(workspace / site / "simulate_job" / "value_sequence.pt")
        assert values[0] == VALUES[site]
        torch.testing.assert_close(float(values[-1]), 4.0)


def test_a_site_without_neighbours_keeps_its_value_and_sends_nothing(workspace: Path):
    values = torch.load(workspace / "lonely" / "simulate_job" / "value_sequence.pt")
    assert set(values.tolist()) == {VALUES["lonely"]}
    traffic = {name: site["sent_bytes"].keys() for name, site in result_of(workspace)["sites"].items()}
    assert traffic == {"hospital-a": {"new-york-1"}, "new-york-1": {"hospital-a"}, "lonely": set()}


@pytest.mark.parametrize(
    ("executor", "reason"),
    [
        (RaisingExecutor, "site-2: KeyError: 'patient'"),
        # it takes 8 s; who waits for it, and who waits for that one, give up in the same moment
        (SlowExecutor, r"site-1: no value from site-2 \(its link is up: .*\) for iteration \d within 3 s"),
    ],
    ids=["raises", "slow"],
)
def test_a_site_that_fails_ends_the_run_with_its_name_and_the_cause(
    tmp_path: Path, executor: type[RingConsensusExecutor], reason: str
):
    values = {"site-1": 1.0, "site-2": 2.0, "site-3": 6.0}
    job = consensus_job(values, iterations=10**6, peer_timeout=3.0, executors={"site-2": executor})
    started = time.monotonic()
    assert job.simulator_run(str(tmp_path)) != 0
    assert time.monotonic() - started < 60
    result = result_of(tmp_path)
    assert result["outcome"] == "failed"
    assert re.fullmatch(reason, result["reason"])


def test_weights_that_lead_away_from_the_mean_end_the_run_before_it_starts(tmp_path: Path):
    centre = Node("centre", [Neighbor("left", 1 / 3), Neighbor("right", 1 / 3)])
    ends = [Node(end, [Neighbor("centre", 1 / 2)]) for end in ("left", "right")]
    job = FedJob(name="star")
    job.to_server(DistOptController(config=Config(Network([centre, *ends]), {"iterations": 30})))
    for site in ("centre", "left", "right"):
        job.to(ConsensusExecutor(), site)
    assert job.simulator_run(str(tmp_path)) != 0
    result = result_of(tmp_path)
    assert "needs a doubly stochastic mixing matrix, and the columns of" in result["reason"]
    assert {site["iterations"] for site in result["sites"].values()} == {0}
