"""Checkpoints as files: whole ones come back as they were, and nothing else is taken for one."""

import errno
import hashlib
import json
import logging
import math
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flaremesh.algorithms import create
from flaremesh.links.inprocess import InProcessLink, inboxes
from flaremesh.metrics.sink import Evaluation, Iteration
from flaremesh.problems.consensus import Consensus
from flaremesh.problems.protocol import SiteContext
from flaremesh.runtime import tensor_file
from flaremesh.runtime.checkpoint import Checkpoint, CheckpointError, Checkpoints
from flaremesh.runtime.checkpointing import Checkpointing
from flaremesh.runtime.cuts import Cuts
from flaremesh.runtime.history import History
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.site_run import SiteRun
from flaremesh.runtime.tree import TreeError, divided, joined
from flaremesh.topology.neighborhood import Neighborhood


def history(iterations):
    records = [Evaluation(0, {"loss": 0.1}, 0.5)]
    for iteration in range(1, iterations):
        records.append(Iteration(iteration, 0.1 * iteration, 0.5, 0.2, 0.1, 0.05))
    return tuple(records)


def checkpoint(iteration, **parts):
    return Checkpoint(iteration, {"x": torch.full((3,), float(iteration)), **parts}, history(iteration))


@pytest.fixture
def checkpoints(tmp_path):
    """Those of iterations 10 and 20."""
    places = Checkpoints(tmp_path / "checkpoints", "bonn")
    places.write(checkpoint(10))
    places.write(checkpoint(20))
    return places


@pytest.fixture
def folder(checkpoints, tmp_path):
    return tmp_path / "checkpoints"


def test_what_is_written_is_read(checkpoints):
    parts = {
        "tensors": [torch.tensor(2.5, dtype=dtype) for dtype in (torch.bfloat16, torch.float64, torch.int64)],
        "arrays": np.arange(6, dtype=np.uint32).reshape(2, 3),
        "empty": [torch.zeros(0), np.zeros((0, 2))],
        "numbers": [1 << 100, 0.1, float("inf"), True, None, "text"],
        "mapping": {"tensor": "0", 3: {"array": [1, 2]}},
        "a view": torch.arange(6).reshape(2, 3).T,
    }
    checkpoints.write(checkpoint(30, **parts))
    read = checkpoints.read(30)
    assert read.history == history(30)
    assert all(map(torch.equal, read.parts["tensors"], parts["tensors"]))
    assert [tensor.dtype for tensor in read.parts["tensors"]] == [t.dtype for t in parts["tensors"]]
    assert read.parts["arrays"].dtype == np.uint32
    np.testing.assert_array_equal(read.parts["arrays"], parts["arrays"])
    assert read.parts["empty"][1].shape == (0, 2)
    assert read.parts["numbers"] == parts["numbers"]
    assert read.parts["mapping"] == parts["mapping"]
    assert torch.equal(read.parts["a view"], parts["a view"])


def test_the_last_two_are_kept_and_nothing_else(checkpoints, folder):
    checkpoints.write(checkpoint(30))
    assert checkpoints.iterations() == [20, 30]
    names = {path.name for path in folder.iterdir()}
    assert names == {"20.json", "20.safetensors", "30.json", "30.safetensors", "history.jsonl"}


def test_another_process_finds_them_and_goes_on_writing(folder):
    again = Checkpoints(folder, "bonn")
    assert again.iterations() == [10, 20]
    again.write(checkpoint(30))
    assert Checkpoints(folder, "bonn").iterations() == [20, 30]


def test_attempts_keep_the_checkpoints_from_which_they_went_on_whatever_the_history_says(folder):
    for iteration in (20, 30):
        attempt = Checkpoints(folder, "bonn")
        last = Iteration(iteration, math.nan, math.inf, 0.1, 0.1, 0.1)
        told = Evaluation(iteration, {"loss": math.nan, "ärger": 1 / 3}, 0.1)
        history = (*attempt.read(iteration).history, last, told)
        attempt.write(Checkpoint(iteration + 10, {}, history))
        assert Checkpoints(folder, "bonn").iterations() == [iteration, iteration + 10]


def test_an_attempt_that_went_on_from_an_older_one_replaces_the_newer(folder):
    again = Checkpoints(folder, "bonn")
    again.write(checkpoint(15))
    assert again.iterations() == [10, 15]


def rewritten(manifest, change):
    """Change what a manifest says, and sign it again."""
    content = json.loads(manifest.read_text().split("\n")[1])
    change(content)
    text = json.dumps(content)
    manifest.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}\n")


def torn(folder):
    file = folder / "20.safetensors"
    file.write_bytes(file.read_bytes()[:-5])


def flipped(folder):
    file = folder / "20.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def cut_history(folder):
    file = folder / "history.jsonl"
    file.write_bytes(file.read_bytes()[:-9])


def foreign(folder):
    rewritten(folder / "20.json", lambda content: content.update(owner="kiel"))


def of_another_iteration(folder):
    rewritten(folder / "20.json", lambda content: content.update(iteration=30))


def of_another_format(folder):
    rewritten(folder / "20.json", lambda content: content.update(format=3))


DAMAGES = {
    "its tensors are torn": torn,
    "tensors are torn": flipped,
    "20.json is torn": lambda folder: (folder / "20.json").write_text((folder / "20.json").read_text()[:-4]),
    "No such file": lambda folder: (folder / "20.safetensors").unlink(),
    "history.jsonl is another one": cut_history,
    "it is that of 'kiel', iteration 20": foreign,
    "it is that of 'bonn', iteration 30": of_another_iteration,
    "it is of format 3": of_another_format,
}


@pytest.mark.parametrize(("reason", "damage"), DAMAGES.items(), ids=DAMAGES.keys())
def test_a_damaged_one_falls_back_to_the_one_before_and_the_log_says_why(
    reason, damage, checkpoints, folder, caplog
):
    damage(folder)
    with caplog.at_level(logging.WARNING):
        assert checkpoints.iterations() == [10]
    assert "the checkpoint of iteration 20 is not used: " in caplog.text
    assert reason in caplog.text
    assert torch.equal(checkpoints.read(10).parts["x"], torch.full((3,), 10.0))


LIES = {
    "a tensor that is not there": {"mapping": [["x", {"tensor": "7"}]]},
    "an array of another shape": {"mapping": [["x", {"array": "0", "dtype": "<u4", "shape": [1 << 40]}]]},
    "an array of objects": {"mapping": [["x", {"array": "0", "dtype": "O", "shape": [1]}]]},
    "no type at all": {"mapping": [["x", {"array": "0", "dtype": [], "shape": [1]}]]},
    "no mapping": [1, 2],
    "a key that is a list": {"mapping": [[[], 1]]},
    "nonsense": {"x": 1},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_one_that_lies_about_its_content_is_not_used(lie, checkpoints, folder):
    rewritten(folder / "20.json", lambda content: content.update(parts=lie))
    assert checkpoints.iterations() == [10]


def test_one_that_was_never_written_is_missed_by_its_name(checkpoints):
    with pytest.raises(CheckpointError, match=r"iteration 15 is not used: there is no 15\.json"):
        checkpoints.read(15)


def test_a_write_that_fails_leaves_those_before_and_no_part_of_itself(checkpoints, folder, monkeypatch):
    def full(path, tensors):
        path.write_bytes(b"a part")
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as volume:
        volume.setattr(tensor_file, "write", full)
        with pytest.raises(OSError, match="no space left"):
            checkpoints.write(checkpoint(30))
    assert checkpoints.iterations() == [10, 20]
    assert not [*folder.glob("*.partial")]
    checkpoints.write(checkpoint(40))
    assert checkpoints.iterations() == [20, 40]


def test_tensors_are_in_the_format_that_the_library_reads(tmp_path):
    tensors = {
        "odd": torch.arange(3, dtype=torch.uint8),
        "wide": torch.randn(5, 2, dtype=torch.float64),
        "scalar": torch.tensor(2.0),
        "narrow": torch.randn(7).to(torch.bfloat16),
        "long": torch.arange(3_000_000, dtype=torch.float32),
    }
    digest = tensor_file.write(tmp_path / "x.safetensors", tensors)
    assert digest == hashlib.sha256((tmp_path / "x.safetensors").read_bytes()).hexdigest()
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("value", [object(), {(1, 2): 3}, np.array(["a"]), b"bytes", {1}])
def test_what_is_neither_a_number_nor_a_text_cannot_be_kept(value):
    with pytest.raises(TreeError, match="cannot be kept"):
        divided({"x": value})


def test_a_tensor_that_is_there_twice_is_written_once():
    x = torch.zeros(3)
    outline, tensors = divided([x, x])
    assert len(tensors) == 1
    first, second = joined(outline, tensors)
    assert first is second


# in the loop of a site

ALONE = Neighborhood("bonn", self_weight=1.0, in_weights={}, out=())


class Walking(Consensus):
    """Tells how many steps it has made."""

    def __init__(self):
        super().__init__(SiteContext("bonn", 0, 1, 0), {"bonn": [1.0, 2.0]})
        self.steps = 0

    def loss_and_gradient(self, x):
        self.steps += 1
        return super().loss_and_gradient(x)

    def snapshot(self):
        return {"steps": self.steps}

    def restore(self, snapshot):
        self.steps = int(snapshot["steps"])


def site(checkpoints, resume=None, problem=None, every=4):
    return SiteRun(
        create("gradient-tracking", stepsize=0.1),
        problem or Walking(),
        [ALONE],
        InProcessLink("bonn", inboxes(["bonn"])),
        History(),
        RunOptions(iterations=10, checkpoint_every=every),
        checkpoints,
        resume,
    )


@pytest.fixture
def places(tmp_path):
    """Those of a run: iterations 4 and 8."""
    places = Checkpoints(tmp_path / "run", "bonn")
    run = site(places)
    run.run()
    run.checkpointing.wait()
    assert places.iterations() == [4, 8]
    return places


def state_of(change):
    def lie(content):
        for entry in content["parts"]["mapping"]:
            if entry[0] == "state":
                entry[1] = change(entry[1])

    return lie


LIES_ABOUT_A_SITE = {
    "shorter vectors": state_of(lambda state: [state[0], state[1], 5]),
    "fewer vectors": state_of(lambda state: state[:2]),
    "a state that is a number": state_of(lambda state: 3),
    "no parts": lambda content: content.update(parts={"mapping": []}),
    "no problem": lambda content: content["parts"]["mapping"].__setitem__(
        slice(None),
        [e if e[0] != "problem" else ["problem", {"mapping": []}] for e in content["parts"]["mapping"]],
    ),
    "no observation": lambda content: content["parts"]["mapping"].__setitem__(
        slice(None), [e if e[0] != "observed" else ["observed", 7] for e in content["parts"]["mapping"]]
    ),
}


@pytest.mark.parametrize("lie", LIES_ABOUT_A_SITE.values(), ids=LIES_ABOUT_A_SITE.keys())
def test_a_site_gives_up_a_checkpoint_that_does_not_fit_and_the_one_before_is_next(lie, places, tmp_path):
    rewritten(tmp_path / "run" / "8.json", lie)
    assert places.iterations() == [4, 8]
    with pytest.raises(CheckpointError, match="the checkpoint of iteration 8 does not fit the run of bonn"):
        site(places, places.read(8))
    assert places.iterations() == [4]
    site(places, places.read(4)).run()


def test_a_checkpoint_of_a_longer_run_does_not_fit(places):
    beyond = Checkpoint(11, places.read(8).parts, ())
    with pytest.raises(CheckpointError, match="the run has 10 iterations"):
        site(None, beyond)


class Full(Checkpoints):
    def write(self, checkpoint):
        raise OSError(errno.ENOSPC, "no space left")


def test_a_full_volume_ends_checkpoints_and_not_the_run(tmp_path, caplog):
    run = site(Full(tmp_path))
    run.run()
    run.checkpointing.wait()
    assert run.checkpointing.failure == "[Errno 28] no space left"
    assert (run.checkpointing.written, run.checkpointing.written_at) == (0, None)
    assert run.checkpointing.failures == 2
    assert "there is no checkpoint of iteration 8: [Errno 28] no space left" in caplog.text


class Broken(Walking):
    def snapshot(self):
        raise KeyError("position")


def test_a_problem_that_cannot_tell_its_position_is_named_and_the_run_goes_on(tmp_path):
    run = site(Checkpoints(tmp_path), problem=Broken())
    run.run()
    assert run.checkpointing.failure == "the problem of bonn failed: KeyError: 'position'"


class Slow(Checkpoints):
    """Begins to write when it is let."""

    def __init__(self, folder):
        super().__init__(folder)
        self.let = threading.Event()

    def write(self, checkpoint):
        assert self.let.wait(30)
        super().write(checkpoint)


def test_iterations_go_on_while_a_checkpoint_is_written_and_it_holds_what_was_then(tmp_path):
    slow = Slow(tmp_path)
    problem = Walking()
    run = site(slow, problem=problem, every=6)
    run.run()
    assert slow.iterations() == []
    slow.let.set()
    run.checkpointing.wait()
    assert slow.iterations() == [6]
    assert slow.read(6).parts["problem"] == {"steps": 7}
    assert problem.steps == 11


def taken(checkpointing, iterations):
    """After which of these a checkpoint was taken."""
    for iteration in iterations:
        checkpointing.take_if_due(iteration, dict)
        checkpointing.wait()
        if checkpointing.written == iteration:
            yield iteration


def test_the_iterations_that_all_sites_are_told_come_again_without_a_further_word(tmp_path):
    checkpointing = Checkpointing(Checkpoints(tmp_path), None)
    checkpointing.follow(Cuts(4, 3))
    checkpointing.at(20)
    assert [*taken(checkpointing, range(1, 21))] == [4, 7, 10, 13, 16, 19, 20]


def test_a_single_iteration_that_is_told_comes_once(tmp_path):
    checkpointing = Checkpointing(Checkpoints(tmp_path), None)
    checkpointing.follow(Cuts(4, 0))
    assert [*taken(checkpointing, range(1, 21))] == [4]


def test_other_iterations_follow_those_before_from_their_first_one_on(tmp_path):
    checkpointing = Checkpointing(Checkpoints(tmp_path), None)
    checkpointing.follow(Cuts(4, 3))
    checkpointing.follow(Cuts(10, 5))
    checkpointing.follow(Cuts(10, 5))  # it is said again and again
    assert [*taken(checkpointing, range(1, 21))] == [4, 7, 10, 15, 20]


def test_who_is_told_late_takes_those_that_are_still_to_come(tmp_path):
    checkpointing = Checkpointing(Checkpoints(tmp_path), None)
    assert [*taken(checkpointing, range(1, 7))] == []
    checkpointing.follow(Cuts(4, 3))
    assert [*taken(checkpointing, range(7, 12))] == [7, 10]


def test_however_much_somebody_tells_little_is_remembered(tmp_path):
    checkpointing = Checkpointing(Checkpoints(tmp_path), None)
    for first in range(1, 10_000):
        checkpointing.follow(Cuts(first, 0))
    assert len(checkpointing._told) == 2


@pytest.mark.parametrize(
    ("cuts", "iteration", "after"),
    [(Cuts(4, 3), 2, 4), (Cuts(4, 3), 4, 7), (Cuts(4, 3), 5, 7), (Cuts(4, 0), 3, 4), (Cuts(4, 0), 9, 10)],
)
def test_the_next_of_them_is_known(cuts, iteration, after):
    assert cuts.after(iteration) == after
