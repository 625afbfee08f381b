"""The server gives tickets to the neighbours of runs that run, and sites keep them while it is away."""

import shutil

import pytest
from cryptography import x509
from meeting_place import MESH, server

from flaremesh.meeting import ticket
from flaremesh.p2p.agents.meeting_point import TicketOffice
from flaremesh.p2p.executors.tickets import Tickets
from flaremesh.p2p.gate import order

RUN = "0f3a"


@pytest.fixture
def office(authority, tmp_path):
    """Of a run in which a and b are neighbours, and b and c."""
    credentials = server(authority)
    startup = tmp_path / "startup"
    startup.mkdir()
    shutil.copy(credentials.certificate, startup / "server.crt")
    shutil.copy(credentials.key, startup / "server.key")
    shutil.copy(authority.file, startup / "rootCA.pem")
    for job in (RUN, "over"):
        order.write(order.order(("a", "b", "c"), {"a": ("b",), "b": ("a", "c")}), tmp_path / job)
    return TicketOffice(
        startup,
        MESH,
        lambda job: tmp_path / job,
        runs=lambda job: job != "over",
        knows=lambda site: site in ("a", "b", "c"),
    )


@pytest.fixture
def root(authority):
    return x509.load_pem_x509_certificate(authority.file.read_bytes())


@pytest.mark.parametrize("pair", [("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")])
def test_the_two_ends_of_an_edge_get_a_ticket_of_their_pair_and_run(office, root, pair):
    site, peer = pair
    told, _ = ticket.verified(office.ticket(site, RUN, peer.encode()), MESH, root)
    assert (told.run, told.pair) == (RUN, tuple(sorted(pair)))


@pytest.mark.parametrize(
    ("site", "run", "peer"),
    [
        ("a", RUN, b"c"),  # no neighbour
        ("a", RUN, b"a"),
        ("a", RUN, b"z"),
        ("z", RUN, b"a"),  # not of the run
        ("a", RUN, b""),
        ("a", RUN, b"\xff" * 1000),
        ("a", "over", b"b"),  # which has ended
        ("a", "other", b"b"),  # of which there is no order
    ],
)
def test_nobody_else_gets_one(office, site, run, peer):
    assert office.ticket(site, run, peer) == b""


def test_between_runs_two_registered_sites_get_a_ticket_that_is_of_no_run(office, root):
    told, _ = ticket.verified(office.trial_ticket("c", b"a"), MESH, root)
    assert (told.run, told.pair) == (ticket.TRIAL, ("a", "c"))


@pytest.mark.parametrize(("site", "peer"), [("a", b"z"), ("z", b"a"), ("a", b"a"), ("a", b"\xff" * 1000)])
def test_who_is_not_registered_and_who_asks_for_itself_gets_none(office, site, peer):
    assert office.trial_ticket(site, peer) == b""


def test_a_ticket_is_asked_for_once_and_kept_while_the_server_says_nothing(monkeypatch):
    asked = []
    answers = iter([b"first", None, b"second"])
    given = Tickets(lambda peer: asked.append(peer) or next(answers))
    assert [given.of("b"), given.of("b")] == [b"first", b"first"]
    assert asked == ["b"]
    monkeypatch.setattr(given, "_due", {})
    assert given.of("b") == b"first"  # it was asked for anew, in vain
    monkeypatch.setattr(given, "_due", {})
    assert given.of("b") == b"second"
    assert asked == ["b", "b", "b"]
