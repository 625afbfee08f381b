"""Sites that nobody can dial meet by connections that go out; the server sees none of what they exchange."""

import os
import signal
from collections.abc import Iterator

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
    return [
        process.pid
        for process in mesh.process("server").children()
        if "flaremesh.meeting" in process.cmdline()
    ]


def log_of(mesh: Mesh, site: str, run_id: str) -> str:
    return (mesh.folder / "local" / site / run_id / "log.txt").read_text()


def test_all_edges_are_met_and_the_sites_agree(mesh: Mesh) -> None:
    result = mesh.run()
    assert {name: site["links"] for name, site in result["sites"].items()} == MET
    assert {site["metrics"]["error"] < 1e-6 for site in result["sites"].values()} == {True}


def test_a_meeting_point_that_is_killed_in_a_run_costs_no_iteration_and_is_met_at_again(mesh: Mesh) -> None:
    with mesh.endless() as run_id:
        (killed,) = meeting_points(mesh)
        os.kill(killed, signal.SIGKILL)
        for site in SITES:
            peers = sorted(set(SITES) - {site})
            wait_until(
                lambda site=site, peers=peers: all(
                    f"{site} -> {peer}: from now on met again" in log_of(mesh, site, run_id) for peer in peers
                ),
                60,
            )
            assert f"{site} -> {peers[0]}: the met link is lost, from now on relay" in log_of(
                mesh, site, run_id
            )
        assert meeting_points(mesh) != [killed]
        (run,) = (run for run in mesh.status()["runs"] if run["run_id"] == run_id)
        assert run["attempts"] == 1
