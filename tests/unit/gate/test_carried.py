"""Checkpoints go from a run to the one that continues it, and nothing that its code has put in their place.

That code is the submitter's, and what it has put there may be a link to what it cannot read itself.
"""

import os

import pytest

from flaremesh.p2p.gate.carried import carry
from flaremesh.p2p.gate.request import Refused
from flaremesh.p2p.store import CHECKPOINTS, STORES

OLD, NEW = "a" * 64, "b" * 64


@pytest.fixture
def checkpoints(tmp_path):
    """Those of the run that is continued."""
    folder = tmp_path / STORES / OLD / CHECKPOINTS
    folder.mkdir(parents=True)
    for name in ("300.json", "300.safetensors", "history.jsonl"):
        (folder / name).write_text(f"that is {name}")
    return folder


def carried(workspace):
    carry(workspace, OLD, NEW)
    folder = workspace / STORES / NEW / CHECKPOINTS
    return {path.name: path.read_text() for path in folder.glob("*")}


def test_checkpoints_are_copied_and_stay(tmp_path, checkpoints):
    kept = {path.name: path.read_text() for path in checkpoints.iterdir()}
    assert carried(tmp_path) == kept
    assert {path.name: path.read_text() for path in checkpoints.iterdir()} == kept


def test_those_that_the_new_run_has_written_since_stay(tmp_path, checkpoints):
    carried(tmp_path)
    (tmp_path / STORES / NEW / CHECKPOINTS / "300.json").write_text("newer")
    assert carried(tmp_path)["300.json"] == "newer"


def test_a_run_that_has_written_none_has_none(tmp_path):
    assert carried(tmp_path) == {}


def test_other_files_stay_behind(tmp_path, checkpoints):
    (checkpoints / "..key").write_text("secret")
    (checkpoints / "300.json.partial").write_text("torn")
    assert set(carried(tmp_path)) == {"300.json", "300.safetensors", "history.jsonl"}


def as_link(checkpoints):
    (checkpoints / "400.json").symlink_to("/etc/hostname")


def as_pipe(checkpoints):
    os.mkfifo(checkpoints / "400.json")


def as_linked_folder(checkpoints):
    checkpoints.rename(checkpoints.with_name("elsewhere"))
    checkpoints.symlink_to(checkpoints.with_name("elsewhere"))


@pytest.mark.parametrize("lay", [as_link, as_pipe, as_linked_folder])
def test_what_the_code_of_a_run_has_put_in_their_place_is_refused(tmp_path, checkpoints, lay):
    lay(checkpoints)
    with pytest.raises(Refused, match="cannot be taken over"):
        carry(tmp_path, OLD, NEW)
    assert not (tmp_path / STORES / NEW / CHECKPOINTS).exists()
