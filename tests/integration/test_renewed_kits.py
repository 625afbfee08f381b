"""A kit that was replaced, in the hands of somebody else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running_mesh import RING, START_SECONDS, RunningMesh, running_mesh, wait_until

from flaremesh.provision.kits import provision
from flaremesh.topology.load import load


@pytest.fixture
def relayed(tmp_path: Path):
    """A mesh that is up, without direct links."""
    run = load(RING).run.model_copy(update={"links": "relay"})
    with running_mesh(tmp_path / "mesh", run=run) as mesh:
        yield mesh


@pytest.fixture
def thief(tmp_path: Path):
    """Starts a site from a copy of somebody's kit."""
    started = []

    def start(kit: Path) -> Path:
        log = kit.parent / "thief.log"
        with log.open("w") as out:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "flaremesh.p2p.participant", str(kit)],
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=os.environ | {"FLAREMESH_METRICS_PORT": "0"},
                )
            )
        return log

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_the_kit_that_was_replaced_is_refused_at_login_and_the_honest_site_goes_on(
    relayed: RunningMesh, thief, tmp_path: Path
) -> None:
    stolen = tmp_path / "stolen" / "bonn"
    shutil.copytree(relayed.folder / "kits" / "bonn", stolen)
    result = provision(relayed.topology, relayed.folder, renew=["bonn"])
    assert result.changed == ("bonn",)
    site = relayed.process("bonn")
    site.terminate()
    site.wait(60)
    relayed.target.up(START_SECONDS)  # with the new kit

    thief(stolen)
    server_log = relayed.workspace("server") / "log.txt"
    wait_until(lambda: "connection refused: the certificate of bonn" in server_log.read_text(), 60)
    assert "was replaced by one from" in server_log.read_text()
    assert relayed.metric("server", "server_refusals_total", what="connection")
    relayed.run("with a thief at the door")
    assert relayed.missing("bonn") == []
