"""Scripts of several kinds, each in its real process, and what becomes of them when their run ends."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from flaremesh.problems.delivery import delivered
from flaremesh.problems.protocol import SiteContext
from flaremesh.problems.script_run import ScriptError
from flaremesh.runtime.randomness import built
from flaremesh.runtime.resumption import resumption_of
from flaremesh.runtime.simulate import simulation_of
from flaremesh.topology.load import load
from flaremesh.topology.mesh import Mesh, build
from flaremesh.topology.schema import FixedGraph, ProblemReference, Run

SCRIPTS = Path(__file__).parents[1] / "scripts"
RING = Path(__file__).parents[2] / "provision" / "ring3-consensus.yaml"
SITE = SiteContext("bonn", index=0, sites=1, seed=0, iterations=9)

pytestmark = pytest.mark.full


def run_of(kind: str, iterations: int = 3, **problem: Any) -> Run:
    problem = {"script": SCRIPTS / kind / "train.py", "model": "net.Net"} | problem
    fields = {"algorithm": "local-dgd", "stepsize": 1, "iterations": iterations, "problem": problem}
    return Run.model_validate(fields)


def mesh_of(*sites: str) -> Mesh:
    """Each with each."""
    topology = load(RING)
    known = tuple(topology.sites[0].model_copy(update={"name": name, "link": None}) for name in sites)
    return build(topology.model_copy(update={"sites": known, "graph": FixedGraph(kind="complete")}))


def test_two_ranks_train_as_one_does_with_the_whole_batch() -> None:
    trained = []
    for launch in (None, "torchrun --nproc-per-node 2"):
        with delivered(run_of("ranks", launch=launch).problem) as make:
            problem = built(SITE, make)
            _, first = problem.train(problem.initial(), 1, 1.0, None)
            trained.append(problem.train(first, 1, 1.0, None)[1])
            assert problem.evaluate(first) == {"ranks": 2.0 if launch else 1.0}
    torch.testing.assert_close(trained[1], trained[0])


@pytest.mark.parametrize("algorithm", ["k-gt", "led"])
def test_a_correction_makes_of_a_script_what_the_algorithm_makes_of_gradients(algorithm: str) -> None:
    """The sites have different digits, so that both corrections are great."""
    settings = {"algorithm": algorithm, "stepsize": 0.2, "local_steps": 5, "iterations": 4}
    run = run_of("scaffold", args=["--lr", 0.2, "--steps", 5])
    models = []
    for problem in (run.problem, ProblemReference(file=SCRIPTS / "scaffold/gradients.py", name="Gradients")):
        changed = Run.model_validate({**settings, "problem": problem})
        with simulation_of(changed, mesh_of("bonn", "aachen")) as simulation:
            simulation.run()
            models.append(simulation.mean)
    torch.testing.assert_close(*models, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("rank", "sent", "told"),
    [
        ("1", signal.SIGKILL, r"rank 1 ended first: train.py .*Root Cause.*rank +: 1 .*Signal 9"),
        ("0", signal.SIGKILL, r"rank 0 ended first: train.py .*Root Cause.*rank +: 0 .*Signal 9"),
        ("1", signal.SIGSTOP, r"rank 1 of train.py was stopped by a signal, for 10 s"),
        ("0", signal.SIGSTOP, r"rank 0 of train.py was stopped by a signal, for 10 s"),
    ],
)
def test_a_rank_that_is_killed_or_stopped_ends_the_run_by_its_number(
    rank: str, sent: signal.Signals, told: str
) -> None:
    with delivered(run_of("ranks", launch="torchrun --nproc-per-node 2").problem) as make:
        problem = built(SITE, make)
        problem.train(problem.initial(), 1, 1.0, None)
        started = psutil.Process().children(recursive=True)
        (chosen,) = [each for each in started if each.environ().get("RANK") == rank]
        assert problem.ranks() == 2
        chosen.send_signal(sent)
        began = time.monotonic()
        with pytest.raises(ScriptError, match=f"(?s)^{told}"):
            problem.train(problem.initial(), 1, 1.0, None)
        assert time.monotonic() - began < 30
        assert problem.ranks() == 0
        _, left = psutil.wait_procs(started, timeout=20)
    assert not left


def test_nothing_is_left_of_two_ranks_whose_run_was_killed() -> None:
    """The launcher, and each of its ranks, which it starts in sessions of their own."""
    ask = f"""
import signal, sys
from pathlib import Path
from flaremesh.problems.delivery import delivered
from flaremesh.problems.protocol import SiteContext
from flaremesh.topology.schema import ScriptReference
said = dict(script={str(SCRIPTS / "ranks/train.py")!r}, model="net.Net", launch="torchrun --nproc-per-node 2")
with delivered(ScriptReference.model_validate(said)) as make:
    problem = make(SiteContext("bonn", 0, 1, 0))
    problem.train(problem.initial(), 1, 1.0, None)
    print("trained", flush=True)
    signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "trained\n"
        started = psutil.Process(run.pid).children(recursive=True)
        assert len(started) >= 3
        os.kill(run.pid, signal.SIGKILL)
        _, left = psutil.wait_procs(started, timeout=20)
    assert not left


def test_a_script_whose_rounds_depend_on_what_it_receives_alone_resumes_exactly() -> None:
    found = resumption_of(run_of("plain", iterations=4), mesh_of("bonn", "aachen"))
    assert found.difference is None
    assert found.repeatable


def trained_by_nvflare(folder: Path, kind: str, **more: Any) -> dict[str, Any]:
    """The model of NVFlare's FedAvg, after three rounds of two sites."""
    fedavg = f"""
import sys
sys.path.insert(0, {str(SCRIPTS / kind)!r})
from net import Net
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe.sim_env import SimEnv
recipe = FedAvgRecipe(
    model=Net(), min_clients=2, num_rounds=3, train_script={str(SCRIPTS / kind / "train.py")!r},
    server_expected_format="pytorch", **{more!r}
)
recipe.execute(SimEnv(clients=["bonn", "aachen"], workspace_root={str(folder / "sim")!r}))
"""
    done = subprocess.run([sys.executable, "-c", fedavg], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    (saved,) = (folder / "sim").rglob("FL_global_model.pt")
    model: dict[str, Any] = torch.load(saved)["model"]
    return model


def test_fedavg_of_nvflare_trains_the_same_script_to_the_same_model(tmp_path: Path) -> None:
    """On a complete graph every site takes the mean of all, as FedAvg's server does."""
    with simulation_of(run_of("plain"), mesh_of("bonn", "aachen")) as simulation:
        site = simulation.sites["bonn"]
        torch.save(site.problem.state(site.problem.initial()), tmp_path / "initial.pt")
        simulation.run()
        expected = site.problem.state(site.estimate)
    model = trained_by_nvflare(tmp_path, "plain", initial_ckpt=str(tmp_path / "initial.pt"))
    for name in ("1.weight", "1.bias"):
        torch.testing.assert_close(torch.as_tensor(model[name]), expected[name], msg=name)


@pytest.mark.parametrize(
    ("kind", "package", "metric"),
    [("lightning", "pytorch_lightning", "accuracy"), ("huggingface", "transformers", "eval_accuracy")],
)
def test_patched_trainers_train(tmp_path: Path, kind: str, package: str, metric: str) -> None:
    """The same script under NVFlare's own FedAvg, too."""
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: `make trainers` has it")
    run = run_of(kind, iterations=4)
    with simulation_of(run, mesh_of("bonn", "aachen")) as simulation:
        simulation.run()
    accuracies = [each.metrics[metric] for each in simulation.histories["bonn"].evaluations]
    assert accuracies[-1] > accuracies[0] + 0.05, accuracies
    own = simulation.sites["bonn"]
    names = own.problem.state(own.estimate).keys()
    launched = {"launch_external_process": True, "command": f"{sys.executable} -u"}
    assert trained_by_nvflare(tmp_path, kind, **launched).keys() == names
