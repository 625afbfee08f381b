"""Whoever has the meeting point, or a kit of the mesh, takes no neighbour's place and changes no model."""

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from attacked_mesh import END_SECONDS, SITES, AttackedMesh, RunBeside, attacked_mesh, wait_until
from cryptography import x509

from flaremesh.issuing import new_key
from flaremesh.links.credentials import Credentials
from flaremesh.meeting import ticket
from flaremesh.meeting.knock import await_go, introduce
from flaremesh.meeting.point import MeetingPoint
from flaremesh.meeting.refusal import Reason, Refused
from flaremesh.p2p import charter
from flaremesh.p2p.credentials import link_credentials
from flaremesh.p2p.nvflare.run_credential import issue
from meddler import Meddler
from ports import free_port

HOST = "127.0.0.1"
ADAM, BERTA, CAROL = SITES
GOES_ON = 20  # iterations


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def meddler(port: int) -> Iterator[Meddler]:
    """It was there before the server, whose own meeting point finds its port taken."""
    with closing(Meddler((HOST, free_port()), (HOST, port))) as meddler:
        yield meddler


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, port: int, meddler: Meddler) -> Iterator[AttackedMesh]:
    """No site has an address."""
    meet = {"host": HOST, "port": port}
    server = {"host": "localhost", "port": free_port(), "org": "consortium", "meet": meet}
    sites = [{"name": site, "org": f"{site}s"} for site in SITES]
    with attacked_mesh(tmp_path_factory.mktemp("mesh"), server=server, sites=sites) as mesh:
        root = mesh.folder / "kits/server/startup/rootCA.pem"
        point = MeetingPoint(
            socket.create_server(meddler.point),
            mesh.topology.name,
            x509.load_pem_x509_certificate(root.read_bytes()),
        )
        with closing(point):
            yield mesh


def goes_on(beside: RunBeside) -> None:
    reached = beside.iteration
    wait_until(lambda: beside.iteration > reached + GOES_ON, END_SECONDS)


def test_a_run_goes_on_whatever_a_meeting_point_does_and_learns_what_it_should(
    mesh: AttackedMesh, meddler: Meddler
) -> None:
    with mesh.beside() as beside:
        for how in ("changes", "replays"):
            meddler.strike(how)
            wait_until(lambda: meddler.struck > 3, END_SECONDS)
            meddler.strike("passes")
            goes_on(beside)
        for how in ("echoes", "silent"):
            meddler.strike(how)
            wait_until(lambda: meddler.struck > 0, END_SECONDS)
            goes_on(beside)  # by the relay
    assert beside.learnt_what_it_should()


def of_a_run(mesh: AttackedMesh, site: str, folder: Path) -> Credentials:
    """What a site's kit issues to a run."""
    kit = mesh.folder / "kits" / site / "startup"
    folder.mkdir()
    issue(kit, folder, new_key())
    return link_credentials(kit, folder, charter.read(kit))


def knock(
    address: tuple[str, int], shown: bytes, own: Credentials, run: str, pair: tuple[str, str], name: str
) -> None:
    """Come to the meeting point as the end ``name`` of a pair, and wait for the other one."""
    with socket.create_connection(address) as stream:
        introduce(stream, shown, own, run, pair, name, 10)
        await_go(stream, 10)


@pytest.mark.parametrize("name", [CAROL, BERTA])
def test_a_member_with_a_ticket_of_others_from_a_server_that_gives_it_any_is_not_met(
    mesh: AttackedMesh, meddler: Meddler, tmp_path: Path, name: str
) -> None:
    startup = mesh.folder / "kits/server/startup"
    certificate = x509.load_pem_x509_certificate((startup / "server.crt").read_bytes())
    carol = of_a_run(mesh, CAROL, tmp_path / "run")
    meddler.strike("passes")
    with mesh.beside() as beside:
        pair, key = (ADAM, BERTA), (startup / "server.key").read_bytes()
        shown = ticket.mint(mesh.topology.name, beside.run_id, pair, key, certificate)
        with pytest.raises(Refused) as refused:
            knock(meddler.address, shown, carol, beside.run_id, pair, name)
        assert refused.value.reason is Reason.STRANGER
        goes_on(beside)
    assert beside.learnt_what_it_should()
