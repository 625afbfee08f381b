"""Who is kept out of a meeting point, and what he does to others, which is nothing."""

import contextlib
import select
import selectors
import socket
import struct
import threading
import time
from collections import Counter
from datetime import timedelta

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st
from meeting_place import MeetingPlace, knocked, met, said, server, ticket

from flaremesh.links.credentials import Credentials
from flaremesh.meeting import knock, point
from flaremesh.meeting.knock import await_go
from flaremesh.meeting.refusal import Reason, Refused
from flaremesh.meeting.ticket import CLOCK_TOLERANCE

CLIENT_HELLO = bytes.fromhex("160301020001000001fc0303") + bytes(500)


@pytest.fixture
def third(authority):
    """A site of the mesh that is no end of the pair."""
    return authority.issue("c")


def heard(place, *arguments, **options):
    """Why somebody is refused who knocks; afterwards an honest pair still meets."""
    with knocked(place.address, *arguments, **options) as stream:
        return said(stream)


def undisturbed(place, ends):
    """An honest pair meets, and bytes pass."""
    a, b = met(place, ends)
    with a, b:
        a.sendall(b"x")
        return b.recv(1) == b"x"


def answer(place, data):
    """What the meeting point says to bytes, until it hangs up."""
    with socket.create_connection(place.address, 10) as stream:
        stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)
        found = b""
        while piece := stream.recv(100):
            found += piece
        return found


# who has no business there


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", CLIENT_HELLO, bytes(100), b"\xff" * 30_000, b"FMMQ", b"F"]
)
def test_who_speaks_another_protocol_is_told_nothing_but_that(place, ends, data):
    try:
        assert answer(place, data) == knock.refusal(Reason.MALFORMED)
    except ConnectionError:
        assert len(data) > 20_000  # more than the meeting point reads before it hangs up
    assert place.shows(lambda figures: figures.refused == {Reason.MALFORMED: 1})
    assert undisturbed(place, ends)


def test_a_knock_of_another_version_is_told_so(place):
    assert answer(place, b"FMMP\x63" + bytes(100)) == knock.refusal(Reason.VERSION)


@pytest.mark.parametrize("lengths", [b"\xff\xff\0\0", b"\0\0\xff\xff"])
def test_a_knock_that_announces_too_much_is_refused_before_it_comes(place, lengths):
    assert answer(place, b"FMMP\1\0" + lengths) == knock.refusal(Reason.MALFORMED)


def test_a_site_of_another_mesh_is_refused_although_it_has_a_ticket(place, foreign_authority, ends):
    stranger = foreign_authority.issue("a")
    assert heard(place, stranger, place.ticket("a", "b")) is Reason.UNTRUSTED
    assert place.figures.refused == {Reason.UNTRUSTED: 1}
    assert undisturbed(place, ends)


def test_what_is_not_the_certificate_of_a_run_is_refused(place, authority, ends):
    others = {
        "a kit's": authority.kit("a", [ExtendedKeyUsageOID.CLIENT_AUTH]),
        "one that another site issued": authority.issue("a", issuer="b"),
        "an expired one": authority.issue("a", days=-1),
        "one that cannot be read": authority.issue("a", garbled=True),
    }
    reasons = {which: heard(place, kit, place.ticket("a", "b"), name="a") for which, kit in others.items()}
    assert reasons == dict.fromkeys(others, Reason.UNTRUSTED)
    assert undisturbed(place, ends)


def test_a_third_party_cannot_take_a_place_that_is_taken(place, ends, third):
    shown = place.ticket("a", "b")
    with knocked(place.address, ends["a"], shown) as waiting:
        assert place.shows(lambda figures: figures.waiting == 1)
        for name in "ab":
            assert heard(place, third, shown, name=name) is Reason.STRANGER
        assert place.figures.waiting == 1
        with knocked(place.address, ends["b"], shown) as other:
            assert await_go(waiting, 10)
            assert await_go(other, 10)
    assert place.figures.refused == {Reason.STRANGER: 2}


def test_a_stolen_ticket_is_of_no_use_even_with_the_certificates_that_came_with_it(place, ends, third):
    robber = Credentials(ends["a"].certificate, third.key, ends["a"].root)
    assert heard(place, robber, place.ticket("a", "b"), name="a") is Reason.UNPROVEN
    assert undisturbed(place, ends)


@pytest.mark.parametrize("signed", [{"run": "other"}, {"pair": ("a", "c")}, {"name": "b"}])
def test_what_was_signed_for_another_place_proves_nothing(place, ends, signed):
    assert heard(place, ends["a"], place.ticket("a", "b"), **signed) is Reason.UNPROVEN


def test_a_knock_that_is_played_again_is_refused(place, ends):
    """All that a passed in its knock, to the byte, by somebody who listened."""
    with _Recorder(place.address) as recorder:
        knocked(recorder.address, ends["a"], place.ticket("a", "b")).close()
    with socket.create_connection(place.address, 10) as stream:
        stream.sendall(recorder.pieces[0])
        assert stream.recv(1 + knock.NONCE_BYTES)[:1] == b"C"
        stream.sendall(b"".join(recorder.pieces[1:]))
        assert said(stream) is Reason.UNPROVEN


class _Recorder:
    """Passes one connection on to a meeting point, and keeps what it said, in a piece before each answer."""

    def __init__(self, address):
        self._address, self.pieces = address, []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = self._listening.getsockname()

    def __enter__(self):
        self._thread = threading.Thread(target=self._pass)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._thread.join()
        self._listening.close()

    def _pass(self):
        near, _ = self._listening.accept()
        with near, socket.create_connection(self._address, 10) as far, selectors.DefaultSelector() as both:
            both.register(near, selectors.EVENT_READ)
            both.register(far, selectors.EVENT_READ)
            new = True
            while True:
                for key, _ in both.select():
                    data = key.fileobj.recv(1 << 16)
                    if not data:
                        return
                    if key.fileobj is far:
                        near.sendall(data)
                        new = True
                        continue
                    far.sendall(data)
                    self.pieces = [*self.pieces, data] if new else [*self.pieces[:-1], self.pieces[-1] + data]
                    new = False


# tickets that are not good


def test_no_ticket_but_one_of_this_mesh_that_still_counts_lets_a_pair_in(
    place, authority, foreign_authority, ends
):
    genuine = server(authority)
    tickets = {
        Reason.STALE: ticket(genuine, "ab", lifetime=-CLOCK_TOLERANCE - timedelta(seconds=2)),
        Reason.MESH: ticket(genuine, "ab", mesh="other"),
        Reason.FORGED: ticket(server(foreign_authority), "ab"),
        Reason.STRANGER: ticket(genuine, "bc"),
        Reason.MALFORMED: b"x",
    }
    for reason, shown in tickets.items():
        assert heard(place, ends["a"], shown) is reason
    assert place.figures.refused == Counter(tickets.keys())
    assert undisturbed(place, ends)


def test_a_site_cannot_mint_its_own_tickets(place, authority, ends):
    kit = authority.kit("a", [ExtendedKeyUsageOID.CLIENT_AUTH], rsa_key=True)
    assert heard(place, ends["a"], ticket(kit, "ab")) is Reason.FORGED


def test_revoked_certificates_are_refused(authority, ends):
    gone, sites = server(authority), authority.issue("a")
    serials = [str(certificate.serial_number) for certificate in (gone.chain()[0], sites.chain()[1])]
    place = MeetingPlace(authority, serials)
    try:
        assert heard(place, ends["a"], ticket(gone, "ab")) is Reason.REVOKED
        assert heard(place, sites, place.ticket("a", "b")) is Reason.REVOKED
        assert undisturbed(place, ends)
    finally:
        place.close()


def test_a_certificate_that_was_replaced_counts_no_more_once_the_new_one_was_seen(place, authority, ends):
    newer = authority.issue("a", since=-1)
    assert undisturbed(place, ends)
    with knocked(place.address, newer, place.ticket("a", "b")):
        assert place.shows(lambda figures: figures.waiting == 1)
    assert heard(place, ends["a"], place.ticket("a", "b")) is Reason.OUTDATED


# crowds


def test_a_slow_knock_is_cut_off_whatever_it_trickles(monkeypatch, place, ends):
    monkeypatch.setattr(point, "KNOCK_SECONDS", 0.5)
    data = knock.knock(place.ticket("a", "b"), ends["a"].chain())
    started = time.monotonic()
    with socket.create_connection(place.address, 10) as stream:
        reading = select.poll()
        reading.register(stream, select.POLLIN)
        for byte in data:
            stream.sendall(bytes([byte]))
            if reading.poll(50):
                break
        assert said(stream) is Reason.SILENT
    assert time.monotonic() - started < 5
    assert place.figures.refused == {Reason.SILENT: 1}
    assert undisturbed(place, ends)


@pytest.mark.parametrize("abruptly", [False, True])
def test_a_port_scanner_leaves_nothing_behind(place, ends, abruptly):
    for _ in range(200):
        with socket.create_connection(place.address, 10) as stream:
            if abruptly:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert undisturbed(place, ends)
    assert place.shows(lambda figures: figures.knocking == 0)
    assert set(place.figures.refused) <= {Reason.EMPTY}  # some were gone before they were accepted


def test_ten_thousand_idle_connections_do_no_harm_to_a_pair_that_works_nor_to_one_that_comes(
    many_files, place, ends, closing
):
    a, b = (closing(stream) for stream in met(place, ends))
    crowd = []
    try:
        for number in range(min(10_000, many_files - 4000)):
            # from an address of its own, as an attacker has one
            crowd.append(socket.create_connection(place.address, 10, ("127.0.0.2", 0)))
            if number % 500 == 0:
                a.sendall(number.to_bytes(8))
                assert int.from_bytes(b.recv(8)) == number
                assert place.figures.knocking <= point._UNPROVEN
        started = time.monotonic()
        assert undisturbed(place, ends)
        assert time.monotonic() - started < point.KNOCK_SECONDS
        assert place.shows(
            lambda figures: figures.refused[Reason.OVERLOAD] >= len(crowd) - 2 * point._UNPROVEN
        )
    finally:
        for stream in crowd:
            stream.close()
    assert place.shows(lambda figures: figures.knocking == 0)
    assert set(place.figures.refused) <= {Reason.OVERLOAD, Reason.EMPTY, Reason.SILENT}


def test_a_flood_of_knocks_that_prove_nothing_delays_no_other_origin(place, ends, closing, third):
    """The most expensive knock: all is genuine but the last signature."""
    robber = Credentials(ends["a"].certificate, third.key, ends["a"].root)
    shown = place.ticket("a", "b")
    flood = [
        closing(knocked(place.address, robber, shown, name="a", source=("127.0.0.2", 0))) for _ in range(500)
    ]
    assert undisturbed(place, ends)
    assert place.figures.refused[Reason.UNPROVEN] < len(flood)  # it had not been through them
    assert {said(stream) for stream in flood} <= {Reason.UNPROVEN, Reason.OVERLOAD}


def test_a_pair_of_which_one_never_comes_keeps_nobody_else_waiting(place, authority, ends, closing):
    for number in range(100):
        shown = place.ticket("a", "b", run=f"r{number}")
        closing(knocked(place.address, ends["a"], shown, run=f"r{number}"))
    assert place.shows(lambda figures: figures.waiting == 100)
    assert undisturbed(place, ends)
    assert place.figures.waiting == 100
    assert not place.figures.refused


@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=50))
def test_whatever_a_knock_and_a_proof_hold_they_are_read_or_refused(data, more):
    for read in (knock.read_knock, knock.read_proof):
        for start in (b"", b"FMMP\1\0\0\5\0\3", b"\0\x20"):
            with contextlib.suppress(Refused):
                read(start + data + more)
