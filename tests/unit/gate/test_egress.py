"""What a run's process tells of what left the site."""

import os

import pytest

from flaremesh.p2p.gate import egress
from flaremesh.p2p.gate.egress import Egress


def test_what_a_run_tells_is_read_back(tmp_path):
    told = Egress("finished", {"aachen": 4096}, {"aachen": "direct"})
    egress.write(tmp_path, told)

    assert egress.read(tmp_path) == told


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"state": "Finished\\u001b[2J"}',
        '{"state": "finished", "sent_bytes": {"aachen": "many"}}',
        '{"state": "finished", "sent_bytes": {"' + "a" * 65 + '": 1}}',
        '{"state": "finished", "links": {"aachen": "<script>"}}',
        "[" * 100_000,
    ],
)
def test_what_is_no_such_record_counts_as_nothing(text, tmp_path):
    egress.write(tmp_path, Egress("finished"))
    (tmp_path / "flaremesh" / egress.EGRESS).write_text(text)

    assert egress.read(tmp_path) is None


def test_a_pipe_in_its_place_does_not_hold_up_the_site(tmp_path):
    egress.write(tmp_path, Egress("finished"))
    file = tmp_path / "flaremesh" / egress.EGRESS
    file.unlink()
    os.mkfifo(file)

    assert egress.read(tmp_path) is None


def test_a_run_that_was_killed_tells_nothing(tmp_path):
    assert egress.read(tmp_path) is None
