"""Relayed frames count where the key of the site in whose name they come has made them, and nowhere else."""

import ssl

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from direct_mesh import Sites, exchange

from flaremesh.links import Key, PeerTimeout, Refusal
from flaremesh.links import authentication as authentication_module
from flaremesh.links.credentials import Credentials
from flaremesh.links.frame import HEADER_BYTES, Frame, Kind, pack, run_digest, unpack

RUN = run_digest("run")
PAIRS = [("a", "b"), ("b", "a")]
FORGED = pack(Frame(Kind.DATA, 1, 0, 0, 0, 0, 4, b"evil"), RUN)


class Relay(Sites):
    """Sites a and b, and m, which is a neighbour of b; keeps what they post."""

    def __init__(self, authority, run_id="run", **credentials):
        super().__init__(authority, run_id)
        self.posted, self.credentials = [], {}
        for name, sources, targets in (("a", "b", "b"), ("b", "am", "a"), ("m", "", "b")):
            self.credentials[name] = credentials.get(name) or authority.issue(name)
            self.add(name, sources, targets, mode="relay", credentials=self.credentials[name])
        self.refusals = self.observers["b"].refusals

    def to_b(self, sender, data):
        """As if the server had brought it."""
        self.delivering["b"](sender, data)

    def of(self, sender, kind=None):
        """What ``sender`` has posted to b."""
        posts = [data for name, peer, data in list(self.posted) if (name, peer) == (sender, "b")]
        return [data for data in posts if kind is None or data[5] == kind]

    def _deliver(self):
        while (post := self.posts.get()) is not None:
            self.posted.append(post)
            sender, peer, data = post
            if peer in self.delivering:
                self.delivering[peer](sender, data)


@pytest.fixture
def relay(authority):
    relay = Relay(authority)
    yield relay
    relay.close(patience=0)


@pytest.fixture
def linked(relay):
    assert not any(relay.open().values())
    return relay


@pytest.fixture
def other(authority):
    """Runs beside that of ``relay``, each as ``other(run_id, **credentials)``."""
    made = []

    def make(run_id, **credentials):
        made.append(Relay(authority, run_id, **credentials))
        return made[-1]

    yield make
    for run in made:
        run.close(patience=0)


def payload(sender, k):
    return f"{sender}{k}".encode() * 50_000


def received(relay, key):
    return bytes(relay.links["b"].receive([key], 10)[key])


def test_neighbours_exchange_what_their_keys_authenticate(linked):
    assert exchange(linked, PAIRS, 10, payload) == []
    assert not linked.refusals


def test_keys_may_be_rsa_as_well(authority, other):
    relay = other("run", a=authority.issue("a", rsa_key=True))
    assert not any(relay.open().values())
    assert exchange(relay, PAIRS, 3, payload) == []


@pytest.mark.parametrize(
    "forge",
    [
        lambda relay: FORGED,
        lambda relay: FORGED + bytes(16),
        lambda relay: relay.of("m", Kind.DATA)[0],  # its own, in the name of another
        lambda relay: relay.of("a", Kind.DATA)[0][:-1] + b"x",
        lambda relay: relay.of("a", Kind.DATA)[-1].replace(b"a2", b"a1"),
        lambda relay: next(data for name, peer, data in relay.posted if name == "b" and data[5] == Kind.DATA),
        lambda relay: b"",
        lambda relay: FORGED[:9],
    ],
)
def test_a_frame_that_its_sender_has_not_made_is_refused_and_counted(linked, forge):
    assert exchange(linked, PAIRS, 3, payload) == []
    linked.to_b("a", forge(linked))
    assert linked.refusals == {("a", Refusal.FORGED): 1}
    assert exchange(linked, PAIRS, 3, payload, start=3) == []


def test_an_acknowledgement_that_its_sender_has_not_made_settles_nothing(linked):
    del linked.delivering["b"]
    linked.links["a"].send("b", Key(0, 0, "a"), [b"x"])
    linked.delivering["a"]("b", pack(Frame(Kind.ACK, 0, 1 << 40, 0, 0, 0, 0, b""), RUN))
    assert linked.observers["a"].refusals == {("b", Refusal.FORGED): 1}


def test_what_stands_beside_a_greeting_settles_nothing(linked):
    """Whoever carries it could write there that all has arrived."""
    to_a = [data for _, peer, data in linked.posted if peer == "a"]
    greeting = next(data for data in to_a if data[5] == Kind.HELLO)
    hello = unpack(greeting, RUN)._replace(acknowledged=1 << 40)
    del linked.delivering["b"]
    linked.links["a"].send("b", Key(0, 0, "a"), [b"x"])
    linked.delivering["a"]("b", pack(hello, RUN))
    edge = linked.links["a"]._carriers[0]._outgoing["b"]
    assert len(edge.unacknowledged) == 1


def test_nothing_counts_before_the_greetings(relay):
    relay.to_b("a", FORGED + bytes(16))
    assert relay.refusals == {("a", Refusal.EARLY): 1}
    with pytest.raises(PeerTimeout):
        relay.links["b"].receive([Key(0, 0, "a")], 0)


@pytest.mark.parametrize("run_id", ["another run", "run"])
def test_what_was_recorded_in_another_process_counts_in_no_other(linked, other, run_id):
    """Also where the server gives a run the name of an earlier one."""
    assert exchange(linked, PAIRS, 3, payload) == []
    later = other(run_id, **linked.credentials)
    for data in linked.of("a"):
        later.to_b("a", data)
    assert later.refusals.total() >= 4
    assert {reason for _, reason in later.refusals} <= {Refusal.RUN, Refusal.EARLY, Refusal.FORGED}
    assert not any(later.open().values())
    assert exchange(later, PAIRS, 3, payload) == []
    before = later.refusals.copy()
    for data in linked.of("a"):
        later.to_b("a", data)
    assert {reason for _, reason in later.refusals - before} <= {
        Refusal.RUN,
        Refusal.FORGED,
        Refusal.OVERLOAD,
    }
    assert exchange(later, PAIRS, 3, payload, start=3) == []


def test_a_greeting_counts_on_no_other_edge(linked):
    (greeting, *_) = linked.of("m", Kind.HELLO)
    linked.delivering["a"]("b", greeting)
    linked.to_b("a", greeting)
    assert linked.observers["a"].refusals == {("b", Refusal.FORGED): 1}
    assert linked.refusals == {("a", Refusal.FORGED): 1}


def test_a_stranger_is_not_even_listened_to(linked, monkeypatch):
    monkeypatch.setattr(Credentials, "identify", lambda *_: pytest.fail("looked at its certificate"))
    linked.to_b("z", linked.of("a", Kind.HELLO)[0])
    linked.to_b("z", FORGED)
    assert linked.refusals == {("z", Refusal.STRANGER): 2}


@pytest.mark.parametrize(
    ("credentials", "reason"),
    [
        (lambda own, foreign: foreign.issue("m", root=own.file), Refusal.UNTRUSTED),
        (lambda own, foreign: own.issue("m", days=-1), Refusal.EXPIRED),
        (lambda own, foreign: own.issue("m", issuer="z"), Refusal.UNTRUSTED),
        (lambda own, foreign: own.issue("z"), Refusal.FORGED),
        (lambda own, foreign: own.issue("m", garbled=True), Refusal.UNTRUSTED),
        (lambda own, foreign: own.kit("m", [ExtendedKeyUsageOID.SERVER_AUTH]), Refusal.UNTRUSTED),
        (lambda own, foreign: own.kit("m", [ExtendedKeyUsageOID.CLIENT_AUTH]), Refusal.UNTRUSTED),
    ],
)
def test_who_is_no_run_of_the_site_is_refused_by_name(
    other, authority, foreign_authority, credentials, reason
):
    relay = other("run", m=credentials(authority, foreign_authority))
    assert relay.open(timeout=0.5)["b"].peers == ["m"]
    assert set(relay.refusals) == {("m", reason)}


def test_a_greeting_with_a_certificate_of_no_version_is_refused(linked, authority):
    certificate = bytearray(authority.issue("m").chain()[0].public_bytes(Encoding.DER))
    certificate[certificate.index(b"\xa0\x03\x02\x01\x02") + 4] = 7
    pem = ssl.DER_cert_to_PEM_cert(bytes(certificate)).encode()
    greeting = bytes(64) + bytes(2) + pem
    linked.to_b("m", pack(Frame(Kind.HELLO, 0, 0, 0, 0, 0, len(greeting), greeting), RUN))
    assert linked.refusals == {("m", Refusal.MALFORMED): 1}


def test_a_certificate_that_was_revoked_is_refused(other, authority):
    of_m = authority.issue("m")
    _, issuer = of_m.chain()
    relay = other("run", m=of_m, b=authority.issue("b", revoked=[str(issuer.serial_number)]))
    assert relay.open(timeout=0.5)["b"].peers == ["m"]
    assert set(relay.refusals) == {("m", Refusal.REVOKED)}


def test_a_certificate_that_was_replaced_is_refused_once_the_new_one_was_seen(other, authority):
    new, of_b = authority.issue("m", since=-1), authority.issue("b")
    assert of_b.identify(new.chain()) == "m"  # as on another link
    relay = other("run", m=authority.issue("m", since=-60), b=of_b)
    assert relay.open(timeout=0.5)["b"].peers == ["m"]
    assert set(relay.refusals) == {("m", Refusal.OUTDATED)}


def test_a_flood_of_greetings_costs_little_and_leaves_the_others_alone(linked, monkeypatch):
    looks = []
    identify = Credentials.identify
    monkeypatch.setattr(Credentials, "identify", lambda *args: looks.append(1) or identify(*args))
    monkeypatch.setattr(authentication_module, "_GREETING_SECONDS", 1.0)
    greeting = bytearray(linked.of("m", Kind.HELLO)[0])
    for number in range(2000):
        greeting[HEADER_BYTES : HEADER_BYTES + 4] = number.to_bytes(4, "little")  # another key each time
        linked.to_b("m", bytes(greeting))
    assert len(looks) < 50
    assert linked.refusals["m", Refusal.OVERLOAD] > 1900
    assert exchange(linked, PAIRS, 3, payload) == []


def test_a_second_session_of_a_peer_is_refused(linked, other):
    """Another process with the same key: two would take turns in its name."""
    key = linked.links["b"]._carriers[0]._greeter._key
    second = other("run", **linked.credentials).links["a"]._carriers[0]._greeter.greeting("b", key)
    linked.to_b("a", pack(Frame(Kind.HELLO, 0, 0, 0, 0, 0, len(second), second), RUN))
    assert linked.refusals == {("a", Refusal.REPLAYED): 1}
    assert exchange(linked, PAIRS, 3, payload) == []
