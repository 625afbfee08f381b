"""Sites that nobody can dial meet by connections that go out; the server sees none of what they exchange."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest
from command_mesh import SITES, UNHURRIED, Mesh, finished, mesh_in, running
from running_mesh import wait_until

from flaremesh.provision import measured
from ports import free_port

MET = {site: dict.fromkeys(set(SITES) - {site}, "met") for site in SITES}
RELAYED = {site: dict.fromkeys(peers, "relayed") for site, peers in MET.items()}


@pytest.fixture(scope="module")
def port() -> int:
    """Where sites meet."""
    return free_port()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Mesh]:
    with mesh_in(tmp_path_factory.mktemp("mesh"), "hidden") as mesh:
        mesh.hide(port)
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


@contextmanager
def no_meeting_point(mesh: Mesh, port: int) -> Iterator[None]:
    """The meeting point is killed, and none can be started: somebody who is mute has its port."""
    taken = socket.socket(socket.AF_INET6)
    taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    def is_taken() -> bool:
        for each in meeting_points(mesh):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        with suppress(OSError):
            taken.bind(("", port))
            taken.listen()
            return True
        return False

    with taken:
        wait_until(is_taken, 30)
        yield


def links_shown(mesh: Mesh, run_id: str) -> dict[str, dict[str, str]]:
    """What `flaremesh status` says of a run's edges."""
    (run,) = (run for run in mesh.status()["runs"] if run["run_id"] == run_id)
    return {name: site["links"] for name, site in run["sites"].items()}


def iterations(mesh: Mesh, run_id: str, site: str) -> list[int]:
    """Those in a site's history, in the order in which they were done, as far as they are written."""
    lines = (mesh.folder / "local" / site / run_id / "flaremesh/history.jsonl").read_text().splitlines(True)
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record["iteration"] for record in records if "metrics" not in record]


def goes_on(mesh: Mesh, run_id: str) -> None:
    """Wait until every site has done further iterations; none was left out, and none done twice."""
    before = {site: len(iterations(mesh, run_id, site)) for site in SITES}
    wait_until(lambda: all(len(iterations(mesh, run_id, site)) > before[site] for site in SITES), 30)
    for site in SITES:
        done = iterations(mesh, run_id, site)
        assert done == list(range(1, len(done) + 1))


def test_all_edges_are_met_and_the_sites_agree(mesh: Mesh) -> None:
    result = mesh.run()
    assert {name: site["links"] for name, site in result["sites"].items()} == MET
    values = [site["metrics"] for site in result["sites"].values()]
    assert all(each == pytest.approx(values[0], rel=1e-6) for each in values)


def test_the_doctor_sees_that_all_edges_will_be_met(mesh: Mesh) -> None:
    ended = mesh.call("doctor", "--json")
    assert ended.returncode == 0, ended.stdout
    assert {(link["kind"], link["ok"]) for link in json.loads(ended.stdout)["links"]} == {("met", True)}


def test_all_edges_are_measured_where_the_sites_meet(mesh: Mesh) -> None:
    ended = mesh.call("doctor", "--measure")
    assert ended.returncode == 0, ended.stderr
    found = measured.read(mesh.folder / measured.FILE)
    assert {(edge.source, edge.target) for edge in found.edges} == {
        (site, peer) for site, peers in MET.items() for peer in peers
    }
    assert all(edge.round_trip < 1 and edge.busy_rate > 1e5 for edge in found.edges)


def test_the_server_shows_what_its_meeting_point_does(mesh: Mesh) -> None:
    def shown(name: str) -> float:
        ((_, value),) = mesh.samples("server", name)
        return value

    with mesh.endless():
        wait_until(lambda: shown("meeting_pairs") == len(SITES), 30)  # on a ring of three
        before = shown("meeting_forwarded_bytes_total")
        wait_until(lambda: shown("meeting_forwarded_bytes_total") > before, 30)


def test_a_meeting_point_that_is_killed_in_a_run_costs_no_iteration(mesh: Mesh, port: int) -> None:
    with mesh.endless() as run_id:
        wait_until(lambda: links_shown(mesh, run_id) == MET, 30)
        with no_meeting_point(mesh, port):
            wait_until(lambda: links_shown(mesh, run_id) == RELAYED, 60)
            goes_on(mesh, run_id)
            for site in SITES:
                assert {worse for _, worse in mesh.samples(site, "edge_link_worse")} == {1}
        wait_until(lambda: links_shown(mesh, run_id) == MET, 90)
        goes_on(mesh, run_id)
        for site, peers in MET.items():
            slot = next(s["slot"] for s, _ in mesh.samples(site, "run_info") if s["run_id"] == run_id)
            changes = {
                (labels["peer"], labels["kind"]): count
                for labels, count in mesh.samples(site, "carrier_changes_total")
                if labels["slot"] == slot
            }
            assert changes.keys() == {(peer, word) for peer in peers for word in ("met", "relayed")}
            assert all(count >= 1 for count in changes.values())


@pytest.mark.full
def test_a_run_whose_meeting_point_stays_away_finishes_over_the_relay(mesh: Mesh, port: int) -> None:
    wanted = 2000
    run = mesh.start("run", "--json", file=mesh.topology("dgd", UNHURRIED, stepsize=0.1, iterations=wanted))
    run_id = running(run)
    with no_meeting_point(mesh, port):
        wait_until(lambda: links_shown(mesh, run_id) == RELAYED, 60)
        ended = finished(run)
    assert ended.returncode == 0, ended.stderr
    sites = json.loads(ended.stdout)["sites"]
    assert {name: site["links"] for name, site in sites.items()} == RELAYED
    assert {site["iterations"] for site in sites.values()} == {wanted}
    for site in SITES:
        assert iterations(mesh, run_id, site) == list(range(1, wanted + 1))
