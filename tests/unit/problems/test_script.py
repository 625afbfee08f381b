"""A script with NVFlare's Client API is a problem: what it gets, and what is made of what it sends."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from flaremesh.metrics.sink import MOST_METRICS
from flaremesh.problems import script
from flaremesh.problems.protocol import SiteContext
from flaremesh.problems.script import ScriptProblem
from flaremesh.problems.script_messages import MOST_LOGGED_STEPS
from flaremesh.problems.script_run import ScriptError
from flaremesh.topology.schema import ScriptReference

SITE = SiteContext("bonn", index=0, sites=1, seed=0, iterations=9)
STEPSIZE, STEPS = 0.5, 4
# one process for all tests of this module: importing NVFlare and torch takes seconds
SCRIPT = """
import sys
import nvflare.client as flare
import torch
from nvflare.client.tracking import MLflowWriter, SummaryWriter, WandBWriter
from nvflare.app_common.app_constant import AlgorithmConstants
from nvflare.app_opt.pt.scaffold import PTScaffoldHelper
from torch import nn
import copy

flare.init()
model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
scaffold = PTScaffoldHelper()
scaffold.init(model)
assert sys.argv[1:] == ["--how", "3"]

while flare.is_running():
    received = flare.receive()
    how = received.current_round
    assert received.total_rounds == 9
    params = received.params
    assert all(isinstance(value, torch.Tensor) for value in params.values())
    metrics, meta, kind = {"accuracy": 0.25, "kind": "text", "train_loss": torch.tensor(2.0)}, {}, "FULL"
    if flare.is_evaluate():
        flare.send(flare.FLModel(metrics={"accuracy": float(params["1.bias"])}))
        continue
    assert flare.is_train()
    assert received.meta["local_steps"] == 4 and received.meta["stepsize"] == 0.5
    if AlgorithmConstants.SCAFFOLD_CTRL_GLOBAL in received.meta:
        model.load_state_dict(params)
        before = copy.deepcopy(model)
        scaffold.load_global_controls(received.meta[AlgorithmConstants.SCAFFOLD_CTRL_GLOBAL])
        c_global, c_local = scaffold.get_params()
        for _ in range(4):  # of a loss without a gradient
            scaffold.model_update(model, 0.5, c_global, c_local)
        scaffold.terms_update(model, 0.5, c_global, c_local, before)
        params = model.state_dict()
        meta = {AlgorithmConstants.SCAFFOLD_CTRL_DIFF: scaffold.get_delta_controls()}
    elif how == 0:
        params = {name: value + 1 for name, value in params.items()}
    elif how == 1:
        params, kind, metrics = {name: torch.ones_like(value) for name, value in params.items()}, "DIFF", None
    elif how == 2:
        params = {name: value.numpy() for name, value in params.items()}
    elif how == 3:
        del params["1.bias"]
    elif how == 4:
        params = {"module." + name: value for name, value in params.items()} | params
    elif how == 5:
        params["1.bias"] = torch.zeros(7)
    elif how == 6:
        params["1.bias"] = params["1.bias"] * float("nan")
    elif how == 7:
        board = SummaryWriter()
        for step in (40, 41):
            board.add_scalar("train/loss", torch.tensor(step / 8), global_step=step)
        board.add_scalar("lr", 0.5, 40)
        board.add_scalars("norm", {"weight": 2, "bias": 3.0}, 41)
        board.add_scalar("epoch", 1.0)  # without a step
        board.add_scalar("at", 1.0, -1)
        board.add_scalar("é" * 300, 1.0, 40)
        MLflowWriter().log_metrics({"ml": 4.0}, 42)
        MLflowWriter().log_metric("ml2", float("nan"), 42)
        MLflowWriter().log_text("a text", "a.txt")
        MLflowWriter().set_tag("kind", "x")
        WandBWriter().log({"wandb": 6.0, "text": "word"}, 43)
        for name in range(300):
            board.add_scalar("many/" + str(name), 1.0, 44)
        for step in range(100, 10_100):
            board.add_scalar("long", 1.0, step)
    elif how == 8:
        raise RuntimeError("out of memory")
    flare.send(flare.FLModel(params=params, params_type=kind, metrics=metrics, meta=meta))
"""


def net() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))


def problem_in(folder: Path, **fields: object) -> ScriptProblem:
    said = {"script": "train.py", "model": "net.Net", "args": ["--how", 3], **fields}
    return ScriptProblem(SITE, net, ScriptReference.model_validate(said), folder)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> ScriptProblem:
    folder = tmp_path_factory.mktemp("script")
    (folder / "train.py").write_text(SCRIPT)
    return problem_in(folder, evaluates=True)


@pytest.fixture
def problem(running: ScriptProblem) -> ScriptProblem:
    buffers = {"0.running_mean": torch.zeros(2), "0.running_var": torch.ones(2)}
    running.restore({"round": 0, "metrics": {}, "buffers": buffers})
    running._control, running._logged = None, 0
    return running


def train(
    problem: ScriptProblem, how: int, x: Tensor, shift: Tensor | None = None
) -> tuple[Tensor | None, Tensor]:
    problem._round = how
    return problem.train(x, STEPS, STEPSIZE, shift)


def test_a_model_that_is_sent_back_whole_is_where_training_led(problem: ScriptProblem) -> None:
    x = torch.arange(7.0)
    loss, z = train(problem, 0, x)
    assert torch.equal(z, x + 1)
    assert loss == 2.0
    assert torch.equal(problem.buffers(), torch.tensor([1.0, 1.0, 2.0, 2.0]))  # running mean, variance


def test_a_difference_is_added_and_a_loss_need_not_be_told(problem: ScriptProblem) -> None:
    x = torch.arange(7.0)
    loss, z = train(problem, 1, x)
    assert torch.equal(z, x + 1)
    assert loss is None


def test_arrays_of_numpy_are_taken_too(problem: ScriptProblem) -> None:
    x = torch.arange(7.0)
    assert torch.equal(train(problem, 2, x)[1], x)


def test_metrics_are_those_of_a_task_to_evaluate(problem: ScriptProblem) -> None:
    assert problem.evaluate(torch.full((7,), 0.75)) == {"accuracy": 0.75}


def test_what_it_logs_with_nvflares_writers_comes_with_its_model_by_the_steps_it_names(
    problem: ScriptProblem,
) -> None:
    train(problem, 7, torch.zeros(7))
    log = {step: dict(metrics) for step, metrics in problem.take_log()}
    assert {step: log[step] for step in (40, 41, None, 43)} == {
        40: {"train/loss": 5.0, "lr": 0.5},
        41: {"train/loss": 5.125, "norm/weight": 2.0, "norm/bias": 3.0},
        None: {"epoch": 1.0},
        43: {"wandb": 6.0},
    }
    assert log[42]["ml"] == 4.0
    assert math.isnan(log[42]["ml2"])
    assert len(log[44]) == MOST_METRICS
    assert len(log) == MOST_LOGGED_STEPS
    assert not problem.take_log()
    train(problem, 0, torch.zeros(7))
    assert not problem.take_log()


def test_no_more_is_kept_of_what_it_logs_than_there_is_room_for(
    problem: ScriptProblem, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(script, "_MOST_LOGGED", 5)
    for _ in range(2):
        train(problem, 7, torch.zeros(7))
    assert len(problem.take_log()) == MOST_LOGGED_STEPS
    assert "no more of them are kept" in caplog.text


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (3, "^train.py sent a model without 1.bias, which net.Net has"),
        (4, "sent module.*, module.*, module.* and 4 more, which net.Net does not have"),
        (5, r"sent 1.bias of shape \(7,\); in net.Net it is \(1,\)"),
    ],
)
def test_another_model_is_refused_by_name(problem: ScriptProblem, how: int, message: str) -> None:
    with pytest.raises(ScriptError, match=message):
        train(problem, how, torch.zeros(7))


def test_what_is_not_finite_comes_through_to_the_runs_own_check(problem: ScriptProblem) -> None:
    assert not train(problem, 6, torch.zeros(7))[1].isfinite().all()


def test_a_shift_reaches_it_as_nvflares_scaffold_and_is_subtracted_at_each_step(
    problem: ScriptProblem,
) -> None:
    """The script's helper keeps c_local, which changes from round to round."""
    x, shift = torch.zeros(7), torch.arange(7.0)
    for _ in range(3):
        _, z = train(problem, 0, x, shift)
        torch.testing.assert_close(z, x - STEPS * shift)
        x, shift = z, shift + 1


def test_a_script_that_takes_no_notice_of_a_shift_is_refused(problem: ScriptProblem) -> None:
    problem._control = torch.zeros(7)
    with pytest.raises(ScriptError, match=r"sends no SCAFFOLD_CTRL_DIFF.*PTScaffoldHelper.*local-dgd"):
        train(problem, 0, torch.zeros(7))


def test_an_exception_is_told_with_what_was_printed(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    with pytest.raises(ScriptError, match=r"(?s)failed: RuntimeError: out of memory.*train\.py.*line \d+"):
        train(problem_in(tmp_path), 8, torch.zeros(7))
