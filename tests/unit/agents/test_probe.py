"""Trying an edge: real sockets, real TLS, real certificates."""

import socket
import threading
import time

import pytest

from flaremesh.links import LinkError, speed
from flaremesh.p2p.agents import probe
from flaremesh.p2p.agents.probe import ProbeListener, dial


@pytest.fixture
def bonn(authority, port):
    return ProbeListener("bonn", "localhost", (port, port), authority.issue("bonn"))


def listens(port):
    with socket.socket() as attempt:
        return attempt.connect_ex(("localhost", port)) == 0


def wait_until_free(port):
    deadline = time.monotonic() + 15
    while listens(port):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def dialled(authority, invitation, site="aachen", peer="bonn", credentials=None, host="localhost"):
    return dial(site, peer, (host, invitation.port), invitation.run, credentials or authority.issue(site))


def test_an_expected_neighbour_gets_a_link_and_the_port_is_free_again(authority, bonn, port):
    invitation = bonn.expect("aachen")
    assert invitation.port == port
    assert dialled(authority, invitation) is None
    wait_until_free(port)


def test_a_link_is_measured_over_tls_whoever_leads(authority, bonn, monkeypatch):
    monkeypatch.setattr(speed, "STREAM_SECONDS", 0.2)
    for site in ("aachen", "ulm"):  # before bonn in the alphabet, and behind it
        invitation = bonn.expect(site)
        address = ("localhost", invitation.port)
        found = probe.measure(site, "bonn", address, invitation.run, authority.issue(site))
        assert isinstance(found, speed.Speed), found
        assert found.round_trip < 1
        assert min(found.sent, found.received) > 1e6


def test_a_site_at_which_a_run_goes_on_is_linked_to_and_not_measured(authority, port):
    busy = ProbeListener("bonn", "localhost", (port, port), authority.issue("bonn"), is_idle=lambda: False)
    assert dialled(authority, busy.expect("aachen")) is None
    invitation = busy.expect("aachen")
    found = probe.measure("aachen", "bonn", ("localhost", port), invitation.run, authority.issue("aachen"))
    assert "aachen could not measure its link to bonn" in found.what
    assert "no run may go on" in found.remedy


def test_who_cannot_be_linked_to_is_not_measured_and_named(authority, port):
    found = probe.measure("aachen", "bonn", ("localhost", port), "probe", authority.issue("aachen"))
    assert "aachen has no link to bonn" in found.what


def test_neighbours_that_come_at_once_share_one_port(authority, bonn):
    names = [f"site-{number}" for number in range(8)]
    invitations = {name: bonn.expect(name) for name in names}
    assert len(set(invitations.values())) == 1
    found = {}
    threads = [
        threading.Thread(
            target=lambda name=name: found.update({name: dialled(authority, invitations[name], name)})
        )
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(names)


def test_one_after_the_other_may_try_through_the_only_port(authority, bonn):
    for _ in range(5):
        assert dialled(authority, bonn.expect("aachen")) is None


def test_another_site_behind_the_address_is_named(authority, bonn):
    failure = dialled(authority, bonn.expect("aachen"), peer="heidelberg")
    assert "aachen has no link to heidelberg" in failure.what
    assert "bonn answers there" in failure.what
    assert "one provisioning" in failure.remedy


def test_who_is_not_expected_is_refused(authority, bonn):
    failure = dialled(authority, bonn.expect("aachen"), site="heidelberg")
    assert "it refuses this site" in failure.what


def test_a_certificate_of_another_root_is_refused(authority, foreign_authority, bonn):
    failure = dialled(authority, bonn.expect("aachen"), credentials=foreign_authority.issue("aachen"))
    assert "certificate is not accepted" in failure.what


def test_an_expired_certificate_is_refused(authority, port):
    expired = ProbeListener("bonn", "localhost", (port, port), authority.issue("bonn", days=-1))
    failure = dialled(authority, expired.expect("aachen"))
    assert "certificate has expired" in failure.what


@pytest.mark.parametrize(
    ("host", "cause"), [("localhost", "refused"), ("nowhere.invalid", "nowhere.invalid")]
)
def test_an_address_that_leads_nowhere_is_named_with_cause_and_remedy(authority, port, host, cause):
    failure = dialled(authority, probe.Invitation(port, "probe"), host=host)
    assert f"aachen has no link to bonn at {host}:{port}: " in failure.what
    assert cause in failure.what
    assert host in failure.remedy


def test_a_neighbour_that_does_not_come_is_not_waited_for_long(bonn, port, monkeypatch):
    monkeypatch.setattr(probe, "_OPEN_SECONDS", 0.1)
    bonn.expect("aachen")
    wait_until_free(port)


def test_no_free_port_is_an_error(bonn, port):
    with socket.create_server(("localhost", port)), pytest.raises(LinkError, match=f"port {port} is taken"):
        bonn.expect("aachen")
