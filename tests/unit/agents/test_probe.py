"""Trying an edge: real sockets, real TLS, real certificates."""

import socket
import threading
import time

import pytest
from meeting_place import comes_true

from flaremesh.links import LinkError, speed
from flaremesh.links.carriers.stream import Piece, PieceKind, pack, unpack
from flaremesh.meeting.ticket import TRIAL
from flaremesh.p2p.agents import probe
from flaremesh.p2p.agents.probe import (
    MeetingProbe,
    ProbeListener,
    RelayProbe,
    by_meeting,
    by_relay,
    dial,
    straight,
)


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
    way = straight(site, peer, (host, invitation.port), invitation.run)
    return dial(site, peer, way, credentials or authority.issue(site))


def measured(authority, site, port, run):
    return probe.measure(
        site, "bonn", straight(site, "bonn", ("localhost", port), run), authority.issue(site)
    )


def test_an_expected_neighbour_gets_a_link_and_the_port_is_free_again(authority, bonn, port):
    invitation = bonn.expect("aachen")
    assert invitation.port == port
    assert dialled(authority, invitation) is None
    wait_until_free(port)


def test_a_link_is_measured_over_tls_whoever_leads(authority, bonn, monkeypatch):
    monkeypatch.setattr(speed, "STREAM_SECONDS", 0.2)
    for site in ("aachen", "ulm"):  # before bonn in the alphabet, and behind it
        invitation = bonn.expect(site)
        found = measured(authority, site, invitation.port, invitation.run)
        assert isinstance(found, speed.Speed), found
        assert found.round_trip < 1
        assert min(found.sent, found.received) > 1e6


def test_a_site_at_which_a_run_goes_on_is_linked_to_and_not_measured(authority, port):
    busy = ProbeListener("bonn", "localhost", (port, port), authority.issue("bonn"), is_idle=lambda: False)
    assert dialled(authority, busy.expect("aachen")) is None
    invitation = busy.expect("aachen")
    found = measured(authority, "aachen", port, invitation.run)
    assert "aachen could not measure its link to bonn" in found.what
    assert "no run may go on" in found.remedy


def test_who_cannot_be_linked_to_is_not_measured_and_named(authority, port):
    found = measured(authority, "aachen", port, "probe")
    assert "aachen has no link to bonn" in found.what


# at the meeting point


def waiting(place, authority, site, **options):
    """A site whose agent waits for neighbours at the meeting point when they are expected."""
    return MeetingProbe(site, place.meeting(site, run=TRIAL), authority.issue(site), **options)


def met(place, authority, site, peer, use):
    credentials = authority.issue(site)
    return use(site, peer, by_meeting(site, peer, place.meeting(site, run=TRIAL), credentials), credentials)


def test_two_neighbours_that_nobody_can_dial_are_measured_where_they_meet(place, authority, monkeypatch):
    monkeypatch.setattr(speed, "STREAM_SECONDS", 0.2)
    ulm = waiting(place, authority, "ulm")
    for _ in range(2):  # and again
        ulm.expect("bonn")
        found = met(place, authority, "bonn", "ulm", probe.measure)
        assert isinstance(found, speed.Speed), found
        assert min(found.sent, found.received) > 1e6
    assert place.shows(lambda figures: figures.joinings == 2 and not figures.joined and not figures.waiting)


def test_a_site_at_which_a_run_goes_on_is_met_and_not_measured(place, authority):
    busy = waiting(place, authority, "ulm", is_idle=lambda: False)
    busy.expect("bonn")
    assert met(place, authority, "bonn", "ulm", dial) is None
    busy.expect("bonn")
    assert "no run may go on" in met(place, authority, "bonn", "ulm", probe.measure).remedy


def test_who_does_not_come_to_the_meeting_point_is_named(place, authority, monkeypatch):
    monkeypatch.setattr(probe, "_DIAL_SECONDS", 0.5)
    monkeypatch.setattr(probe, "_ATTEMPT_SECONDS", 0.4)
    found = met(place, authority, "bonn", "ulm", probe.measure)
    assert "bonn has no link to ulm at the meeting point" in found.what
    assert "ulm has not come" in found.what
    assert "flaremesh doctor" in found.remedy


def test_who_was_expected_and_did_not_come_is_waited_for_no_more(place, authority, monkeypatch):
    monkeypatch.setattr(probe, "_OPEN_SECONDS", 0.3)
    ulm = waiting(place, authority, "ulm")
    for _ in range(3):
        ulm.expect("bonn")  # it is waited for once, however often it says that it comes
    assert place.shows(lambda figures: figures.waiting == 1)
    assert place.shows(lambda figures: figures.waiting == 0)
    assert comes_true(lambda: not threads_named("probe-bonn"))


def threads_named(name):
    return [thread for thread in threading.enumerate() if thread.name == name]


# through the relay


class Relay:
    """Stands for NVFlare's server between the agents, which the integration tests have.

    Attributes:
        agents: by site.
        passed: all that it has passed on.
        led: to whom else it brings what is for a site, in whose name that one answers.
    """

    def __init__(self):
        self.agents, self.passed, self.led = {}, [], {}

    def agent(self, site, credentials, **options):
        def post(peer, data):
            self.passed.append((site, peer, data))
            told = next((name for name, instead in self.led.items() if instead == site), site)
            self.agents[self.led.get(peer, peer)].take(told, data)

        self.agents[site] = RelayProbe(site, post, credentials, **options)
        return self.agents[site]

    def sent_by(self, site):
        return [unpack(data) for sender, _, data in self.passed if sender == site]


@pytest.fixture
def relay(authority):
    """Joins bonn and ulm, whose agents run."""
    relay = Relay()
    for site in ("bonn", "ulm"):
        relay.agent(site, authority.issue(site))
    return relay


def relayed(authority, relay, use, site="bonn", peer="ulm", credentials=None):
    return use(site, peer, by_relay(site, peer, relay.agents[site]), credentials or authority.issue(site))


def begin(number=b"12345678"):
    return pack(Piece(PieceKind.BEGIN, number, 0, 0, b""))


def test_two_neighbours_that_only_the_relay_joins_are_measured_there_sealed(authority, relay, monkeypatch):
    monkeypatch.setattr(speed, "STREAM_SECONDS", 0.2)
    for _ in range(2):  # and again
        relay.agents["ulm"].expect("bonn")
        found = relayed(authority, relay, probe.measure)
        assert isinstance(found, speed.Speed), found
        assert min(found.sent, found.received) > 1e5
    # what is measured is zeros, which nobody between sees
    assert sum(len(data) for _, _, data in relay.passed) > 1e6
    assert not any(
        bytes(64) in bytes(piece.payload) for site in ("bonn", "ulm") for piece in relay.sent_by(site)
    )


def test_who_leads_dials_through_the_relay(relay):
    assert relay.agents["bonn"].dials("ulm")
    assert not relay.agents["ulm"].dials("bonn")


def test_a_site_at_which_a_run_goes_on_is_relayed_to_and_not_measured(authority, relay):
    busy = relay.agent("ulm", authority.issue("ulm"), is_idle=lambda: False)
    busy.expect("bonn")
    assert relayed(authority, relay, dial) is None
    assert "no run may go on" in relayed(authority, relay, probe.measure).remedy


def test_behind_the_relay_nobody_is_answered_who_is_not_expected(authority, relay, monkeypatch):
    monkeypatch.setattr(probe, "_DIAL_SECONDS", 0.5)
    monkeypatch.setattr(probe, "_ATTEMPT_SECONDS", 0.4)
    ulm = relay.agent("ulm", authority.issue("ulm"))
    assert "bonn has no link to ulm at the server's relay" in relayed(authority, relay, dial).what
    ulm.expect("aachen")
    assert comes_true(lambda: "aachen" in ulm._carriers)
    for sender in ("bonn", "kiel", "", "\n"):
        for data in (begin(), b"", b"nonsense", bytes(1 << 20)):
            ulm.take(sender, data)
    assert relay.sent_by("ulm") == []
    assert not threads_named("relay-kiel")


def test_behind_the_relay_who_was_expected_is_answered_for_a_bounded_time(authority, relay, monkeypatch):
    monkeypatch.setattr(probe, "_OPEN_SECONDS", 0.2)
    monkeypatch.setattr(speed, "MOST_SECONDS", 0.2)
    ulm = relay.agents["ulm"]
    for _ in range(3):
        ulm.expect("dresden")
    assert len(threads_named("probe-dresden")) == 1
    assert comes_true(lambda: not threads_named("probe-dresden"))
    ulm.take("dresden", begin())
    assert relay.sent_by("ulm") == []
    assert not threads_named("relay-dresden")


def test_through_the_relay_one_measurement_with_a_neighbour_goes_on_at_a_time(authority, relay):
    relay.agents["ulm"].expect("bonn")
    way, credentials = by_relay("bonn", "ulm", relay.agents["bonn"]), authority.issue("bonn")
    first, second = (probe._made("bonn", "ulm", way, credentials) for _ in range(2))
    with pytest.raises(ConnectionError):
        speed.measure(second)
    assert isinstance(speed.measure(first), speed.Speed)
    way.carrier.close()


def test_many_streams_in_a_neighbours_name_take_bounded_threads_of_an_agent(authority, relay):
    relay.agent("essen", authority.issue("essen"))
    ulm = relay.agents["ulm"]
    ulm.expect("essen")
    assert comes_true(lambda: "essen" in ulm._carriers)
    for number in range(5000):
        ulm.take("essen", begin(number.to_bytes(8, "big")))
    assert 0 < len(threads_named("relay-essen")) <= 8


def test_a_server_that_leads_a_measurement_to_another_site_is_found_out(authority, relay):
    kiel = relay.agent("kiel", authority.issue("kiel"))
    relay.led = {"ulm": "kiel"}
    kiel.expect("bonn")
    assert comes_true(lambda: "bonn" in kiel._carriers)
    failure = relayed(authority, relay, probe.measure)
    assert "kiel answers there" in failure.what


def test_a_server_that_answers_a_measurement_itself_is_found_out(authority, foreign_authority, relay):
    relay.agent("ulm", foreign_authority.issue("ulm")).expect("bonn")
    assert "certificate is not accepted" in relayed(authority, relay, probe.measure).what


def test_who_begins_in_a_neighbours_name_without_its_certificate_measures_nothing(authority, relay):
    relay.agents["ulm"].expect("bonn")
    impostor = authority.issue("aachen")
    failure = relayed(authority, relay, probe.measure, credentials=impostor)
    assert "bonn has no link to ulm at the server's relay: the peer hung up" in failure.what


# who comes, and who does not


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
