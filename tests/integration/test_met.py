"""Sites that nobody can dial meet by connections that go out; the server sees none of what they exchange."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest
from command_mesh import SITES, Mesh, mesh_in
from running_mesh import wait_until

from ports import free_port

MET = {site: dict.fromkeys(set(SITES) - {site}, "met") for site in SITES}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with mesh_in(tmp_path_factory.mktemp("mesh"), "hidden") as mesh:
        mesh.hide(free_port())
        up = mesh.call("up")
        assert up.returncode == 0, up.stderr
        yield mesh


def meeting_points(mesh: Mesh) -> list[int]:
    """Process ids of those that live."""
    found = []
    for child in mesh.process("server").children():
        with suppress(psutil.NoSuchProcess):  # it ends meanwhile
            if "flaremesh.meeting" in child.cmdline():
                found.append(child.pid)
    return found


def test_all_edges_are_met_and_the_sites_agree(mesh: Mesh) -> None:
    result = mesh.run()
    assert {name: site["links"] for name, site in result["sites"].items()} == MET
    values = [site["metrics"] for site in result["sites"].values()]
    assert all(each == pytest.approx(values[0], rel=1e-6) for each in values)


def test_a_meeting_point_that_is_killed_in_a_run_ends_no_attempt(mesh: Mesh) -> None:
    with mesh.endless() as run_id:
        (killed,) = meeting_points(mesh)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: meeting_points(mesh) not in ([], [killed]), 30)
        histories = [mesh.folder / "local" / site / run_id / "flaremesh/history.jsonl" for site in SITES]
        before = [history.stat().st_size for history in histories]
        wait_until(
            lambda: all(h.stat().st_size > size for h, size in zip(histories, before, strict=True)), 30
        )
        (run,) = (run for run in mesh.status()["runs"] if run["run_id"] == run_id)
        assert {name: site["links"] for name, site in run["sites"].items()} == MET
