"""A site that is slow is not taken for one that is dead, where the run goes on after a loss."""

import json

import pytest

LATE_SECONDS = 20.0  # longer than a site that gives no sign of life is waited for
LATE = {"path": "faulty.Late", "args": {"at": "bonn", "seconds": LATE_SECONDS}}
OPTIONS = {"stepsize": 0.1, "peer_timeout": 2.0}


@pytest.mark.parametrize("links", ["direct", pytest.param("relay", marks=pytest.mark.full)])
def test_a_gradient_that_takes_longer_than_the_peer_timeout_is_waited_for(mesh, links):
    file = mesh.topology("dgd", LATE, on_loss="wait", links=links, **OPTIONS)
    ended = mesh.call("run", "--json", file=file)
    assert ended.returncode == 0, ended.stderr
    assert "goes on once all are back" not in ended.stderr
    assert json.loads(ended.stdout)["seconds"] > LATE_SECONDS


@pytest.mark.full
def test_where_the_run_ends_with_its_first_loss_it_is_not(mesh):
    ended = mesh.call("run", "--json", file=mesh.topology("dgd", LATE, **OPTIONS))
    assert ended.returncode == 1
    assert "no value from bonn" in ended.stderr.splitlines()[-1]
