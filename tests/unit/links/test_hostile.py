"""Whoever attacks a direct link is refused and counted, and the run beside it does not notice."""

import functools
import itertools
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager

import psutil
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from direct_mesh import Proxy, Sites, exchange
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from flaremesh.links import Key, LinkError, LinkKind, LinkRefused, PeerTimeout, Refusal, connector, reception
from flaremesh.links.frame import (
    GREETING_BYTES,
    HEADER_BYTES,
    Frame,
    Greeting,
    Kind,
    Word,
    pack,
    pack_greeting,
    run_digest,
    unpack,
    unpack_greeting,
)

RUN = run_digest("run")
HONEST = [("a", "b"), ("b", "a")]
HELLO = pack_greeting(Greeting(Word.HELLO), RUN)
CROWD = 1000


class Run:
    """Honest sites a and b exchange; c is a neighbour of a alone, m of b, and the tests play m."""

    def __init__(self, sites):
        self.sites = sites
        self.proxies = []
        sites.add("a", ["b", "c"], ["b", "c"])
        self.address = sites.add("b", ["a", "m"], ["a"]).address
        sites.add("c", ["a"], ["a"])
        sites.add("m", [], ["b"], mode="relay")
        proxy = Proxy(self.address)
        self.proxies.append(proxy)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connector, "_DIAL_SECONDS", 0.05)  # m has no address
            assert not any(sites.open({"b": proxy.address}).values())
        self.b = sites.links["b"]
        self.refusals = sites.observers["b"].refusals
        self._iteration = 0

    def refused(self, name, reason, times=1):
        """Whether b comes to have refused ``name`` so often for ``reason``."""
        return self.sites.observers["b"].wait_for(lambda: self.refusals[name, reason] >= times)

    def cut(self):
        """Break the connection from a to b."""
        self.proxies[0].cut()

    def exchange(self, iterations=5):
        start, self._iteration = self._iteration, self._iteration + iterations
        assert exchange(self.sites, HONEST, iterations, lambda s, k: f"{s}{k}".encode() * 50, start) == []

    @contextmanager
    def undisturbed(self):
        """Fails unless a and b exchange before, during and after what happens inside, over direct links."""
        self.exchange()
        over = threading.Event()

        def go_on():
            while not over.is_set():
                self.exchange()

        with ThreadPoolExecutor(1) as pool:
            meanwhile = pool.submit(go_on)
            try:
                yield
            finally:
                over.set()
            meanwhile.result()
        self.exchange()
        for site in "ab":
            assert set(self.sites.observers[site].links.values()) == {LinkKind.DIRECT}


@pytest.fixture
def run(proxies, sites):
    run = Run(sites)
    proxies += run.proxies
    return run


@pytest.fixture
def others(authority):
    """Another mesh, of attackers."""
    mesh = Sites(authority)
    yield mesh
    mesh.close(patience=0)


def connect(address, credentials):
    """A TLS connection to ``address`` as whoever ``credentials`` say."""
    raw = socket.create_connection(address, 10)
    return credentials.dialling().wrap_socket(raw)


@contextmanager
def greeted(address, credentials):
    """A connection that was accepted as an in-neighbour's."""
    with connect(address, credentials) as connection:
        connection.sendall(HELLO)
        assert greeting_of(connection).word is Word.ADOPT
        yield connection


def greeting_of(connection):
    """What the other end greets with."""
    return unpack_greeting(read(connection, GREETING_BYTES), RUN)


def read(connection, count):
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionError("hung up without an answer")
        data += piece
    return data


def is_over(connection):
    """Whether the other end hangs up, which it must."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


def message(sequence, payload=b"x", iteration=0, **changes):
    frame = Frame(Kind.DATA, sequence, 0, 0, iteration, 0, len(payload))
    return pack(frame._replace(**changes)) + payload


@pytest.fixture
def mallory(authority):
    return authority.issue("m")


# who may not connect


DISTRUST = (Refusal.UNTRUSTED, Refusal.EXPIRED, Refusal.STRANGER)


def credentials_of(case, name, authority, foreign_authority):
    return {
        "foreign": lambda: foreign_authority.issue(name, root=authority.file),
        "expired": lambda: authority.issue(name, days=-1),
        "misnamed": lambda: authority.issue("z"),
        "of another site": lambda: authority.issue(name, issuer="z"),
        "a site's kit": lambda: authority.kit(name, [ExtendedKeyUsageOID.CLIENT_AUTH]),
        "garbled": lambda: authority.issue(name, garbled=True),
        "the server's kit": lambda: authority.kit(name, [ExtendedKeyUsageOID.SERVER_AUTH]),
    }[case]()


@pytest.mark.parametrize(
    ("case", "counted", "cause"),
    [
        ("foreign", ("", "untrusted"), "the handshake was refused"),
        ("expired", ("", "expired"), "CERTIFICATE_EXPIRED"),
        ("misnamed", ("z", "stranger"), "it refuses this site: stranger"),
        ("of another site", ("", "untrusted"), "it refuses this site: untrusted"),
        ("garbled", ("", "untrusted"), "it refuses this site: untrusted"),
        ("a site's kit", ("", "untrusted"), "it refuses this site: untrusted"),
        ("the server's kit", ("", "untrusted"), "the handshake was refused"),
    ],
)
def test_a_dialler_that_is_not_who_it_says_is_refused(
    run, others, authority, foreign_authority, case, counted, cause
):
    identity = credentials_of(case, "a", authority, foreign_authority)
    others.add("a", [], ["b"], credentials=identity, listens=False)
    with run.undisturbed():
        error = others.open({"b": run.address})["a"]
        assert isinstance(error, LinkRefused)
        assert "a has no link to b" in str(error)
        assert cause in str(error)
        assert not others.relayed
        assert run.refused(*counted)
    assert set(run.refusals) == {counted}


@pytest.mark.parametrize(
    ("case", "reason", "cause"),
    [
        ("foreign", "rejected", "its certificate is not accepted"),
        ("expired", "rejected", "certificate has expired"),
        ("misnamed", "handshake", "z answers there"),
        ("of another site", "handshake", "z issued a certificate in a name that is not its own"),
        ("garbled", "handshake", "its certificate is not accepted"),
        ("a site's kit", "rejected", "its certificate is not accepted"),
        ("the server's kit", "handshake", "its certificate is not accepted"),
    ],
)
def test_a_listener_that_is_not_who_it_says_is_refused_and_never_relayed_to(
    run, others, authority, foreign_authority, case, reason, cause
):
    others.add("x", [], ["y"], listens=False)
    impostor = credentials_of(case, "y", authority, foreign_authority)
    others.add("y", ["x"], [], credentials=impostor)
    with run.undisturbed():
        errors = others.open(timeout=0.3)
        assert isinstance(errors["x"], LinkRefused)
        assert "x has no link to y" in str(errors["x"])
        assert cause in str(errors["x"])
        assert "no sign of x" in str(errors["y"])
        assert others.relayed["x", "y"] == 0
        assert any(others.observers["x"].refusals["y", why] for why in DISTRUST)
        observer = others.observers["y"]
        assert observer.wait_for(lambda: reason in {counted for _, counted in observer.refusals})
    assert not run.refusals


def test_a_certificate_that_was_revoked_connects_nobody(others, authority):
    of_x = authority.issue("x")
    _, issuer = of_x.chain()
    others.add("x", ["y"], ["y"], credentials=of_x)
    others.add("y", ["x"], ["x"], credentials=authority.issue("y", revoked=[str(issuer.serial_number)]))
    errors = others.open()
    assert "it refuses this site: revoked" in str(errors["x"])
    assert "the certificate of x is revoked" in str(errors["y"])
    assert others.observers["y"].refusals["", "revoked"] == 1


def test_a_certificate_that_was_replaced_displaces_nobody_that_has_the_new_one(run, authority):
    """The replaced kit's owner dials in while the honest site's link is up."""
    replaced = authority.issue("a", since=-90)
    with run.undisturbed(), connect(run.address, replaced) as connection:
        connection.sendall(HELLO)
        assert greeting_of(connection) == Greeting(Word.REFUSED, reason="outdated")
    assert run.refusals == {("", "outdated"): 1}


def test_both_ends_of_an_edge_learn_that_one_certificate_is_expired(others, authority):
    others.add("x", ["y"], ["y"])
    others.add("y", ["x"], ["x"], credentials=authority.issue("y", days=-1))
    errors = others.open()
    assert all(isinstance(error, LinkRefused) for error in errors.values())
    assert "x has no link to y" in str(errors["x"])
    assert "certificate has expired" in str(errors["x"])
    assert "y has no link to x" in str(errors["y"])
    assert "CERTIFICATE_EXPIRED" in str(errors["y"])


def test_a_site_of_the_mesh_that_is_not_on_the_edge_is_refused(run, others):
    others.add("c", [], ["b"], listens=False)
    with run.undisturbed():
        error = others.open({"b": run.address})["c"]
        assert isinstance(error, LinkRefused)
        assert "it refuses this site: stranger" in str(error)
    assert run.refusals == {("c", "stranger"): 1}


@pytest.mark.parametrize(
    ("name", "cause", "counted", "counted_there"),
    [
        ("a", "(run)", {("a", "handshake"): 1}, {("b", "run"): 1}),  # leads, and learns of which run b is
        ("m", "it refuses this site: run", {("m", "run"): 1}, {}),
    ],
)
def test_a_site_of_another_run_is_refused(run, authority, name, cause, counted, counted_there):
    other = Sites(authority, "another run")
    other.add(name, [], ["b"], listens=False)
    with run.undisturbed():
        error = other.open({"b": run.address})[name]
        assert isinstance(error, LinkRefused)
        assert f"{name} has no link to b" in str(error)
        assert cause in str(error)
        assert run.refused(*next(iter(counted)))
    other.close(patience=0)
    assert run.refusals == counted
    assert other.observers[name].refusals == counted_there


# what is no TLS, or comes too slowly


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nHost: b\r\n\r\n", b"\0" * 100, b"\x16\x03\x01" + b"\xff" * 999]
)
def test_a_port_scanner_is_refused(run, data):
    with run.undisturbed(), socket.create_connection(run.address, 10) as scanner:
        scanner.sendall(data)
        scanner.shutdown(socket.SHUT_WR)
        assert run.refused("", "handshake")
        assert is_over(scanner)
    assert run.refusals == {("", "handshake"): 1}


def test_a_connection_that_sends_nothing_is_dropped_at_the_deadline(run, monkeypatch):
    monkeypatch.setattr(reception, "_HANDSHAKE_SECONDS", 0.2)
    with run.undisturbed(), socket.create_connection(run.address, 10) as silent:
        assert is_over(silent)
        assert run.refused("", "silent")
    assert run.refusals == {("", "silent"): 1}


def test_a_neighbour_that_never_greets_is_dropped_by_name(run, monkeypatch, mallory):
    monkeypatch.setattr(reception, "_HANDSHAKE_SECONDS", 0.2)
    with run.undisturbed(), connect(run.address, mallory) as silent:
        silent.sendall(HELLO[:-1])
        assert is_over(silent)
        assert run.refused("m", "silent")
    assert run.refusals["m", "silent"] == 1


@pytest.fixture
def crowd():
    """Opens connections and holds them."""
    held = []

    def gather(address, first=b""):
        for _ in range(CROWD):
            held.append(socket.create_connection(address, 10))
            held[-1].sendall(first)
        return held

    yield gather
    for connection in held:
        connection.close()


def test_a_link_is_made_again_among_a_thousand_half_open_connections(run, crowd):
    with run.undisturbed():
        crowd(run.address)
    run.cut()
    run.exchange()
    assert run.proxies[0].connections == 2
    assert run.refused("", "overload", CROWD // 2)


def test_a_crowd_that_begins_its_handshakes_and_hangs_up_does_no_harm(run, crowd):
    with run.undisturbed():
        for half_open in crowd(run.address, b"\x16\x03\x01\x02\x00\x01"):
            half_open.close()
        assert run.sites.observers["b"].wait_for(lambda: run.refusals.total() >= CROWD)
    assert set(run.refusals) <= {("", "overload"), ("", "handshake")}


# neighbours that have proven who they are


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (message(1, length=1 << 62), "oversized"),
        (message(1, kind=Kind.ACK), "malformed"),
        (message(0, kind=Kind.ALIVE), "malformed"),
        (message(1, b"", kind=Kind.END), "malformed"),
        (message(1, kind=5), "malformed"),
        (message(0), "malformed"),
        (message(2), "malformed"),
        (message(2**64 - 1), "malformed"),
        (pack(Frame(Kind.ALIVE, 0, 0, 0)) * 99, "overload"),
        (HELLO + bytes(HEADER_BYTES), "malformed"),
        (b"\0" * HEADER_BYTES, "malformed"),
        (b"GET / HTTP/1.1\r\nHost: somewhere.example.org\r\nAccept: */*\r\n\r\n", "malformed"),
    ],
)
def test_a_neighbour_that_sends_no_frame_of_the_edge_is_cut_off(run, mallory, data, reason):
    with run.undisturbed(), greeted(run.address, mallory) as connection:
        connection.sendall(data)
        assert is_over(connection)
        assert run.refused("m", reason)
    assert run.refusals == {("m", reason): 1}


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        (pack_greeting(Greeting(Word.HELLO), run_digest("another")), "run"),
        (HELLO[:4] + b"\x02" + HELLO[5:], "version"),
        (pack_greeting(Greeting(Word.HELLO, received=1), RUN), "malformed"),
        (pack_greeting(Greeting(Word.ADOPT, number=1 << 60), RUN), "malformed"),
        (pack_greeting(Greeting(Word.REFUSED, reason="run"), RUN), "malformed"),
        (message(1) * 2, "malformed"),
        (b"\xff" * GREETING_BYTES, "malformed"),
    ],
)
def test_a_neighbour_that_greets_wrongly_is_told_why_it_is_refused(run, mallory, greeting, reason):
    with run.undisturbed(), connect(run.address, mallory) as connection:
        connection.sendall(greeting[:GREETING_BYTES])
        assert greeting_of(connection) == Greeting(Word.REFUSED, reason=reason)
    assert run.refusals == {("m", reason): 1}


def test_a_replayed_frame_is_dropped_and_the_next_one_taken(run, mallory):
    with run.undisturbed(), greeted(run.address, mallory) as connection:
        connection.sendall(message(1, b"first") + message(1, b"again") + message(2, b"next", iteration=1))
        assert run.refused("m", "replayed")
        keys = [Key(0, 0, "m"), Key(1, 0, "m")]
        taken = run.b.receive(keys, 5)
        assert [bytes(taken[key]) for key in keys] == [b"first", b"next"]
    assert run.refusals == {("m", "replayed"): 1}


@pytest.mark.parametrize("length", [1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 5])
def test_a_neighbour_that_stops_within_a_message_is_named_in_time(run, mallory, length):
    key, data = Key(0, 0, "m"), message(1, b"x" * 10)
    with run.undisturbed(), greeted(run.address, mallory) as connection:
        connection.sendall(data[:length])
        with bounded(3), pytest.raises(PeerTimeout, match=r"m \(its link is up"):
            run.b.receive([key], 0.3)
        connection.sendall(data[length:])
        assert bytes(run.b.receive([key], 5)[key]) == b"x" * 10


def test_a_neighbour_that_stops_within_a_tls_record_is_named_in_time(run, mallory):
    with run.undisturbed(), greeted(run.address, mallory) as connection:
        socket.socket.send(connection, b"\x17\x03\x03\x00\x50")  # the start of a record of 80 bytes
        with bounded(3), pytest.raises(PeerTimeout, match=r"m \(its link is up"):
            run.b.receive([Key(0, 0, "m")], 0.3)


def test_a_neighbour_that_replays_without_end_is_named_in_time(run, mallory):
    with run.undisturbed(), greeted(run.address, mallory) as connection:
        over = threading.Event()

        def replay():
            while not over.is_set():
                connection.sendall(message(1) * 10)

        with ThreadPoolExecutor(1) as pool:
            replaying = pool.submit(replay)
            try:
                with bounded(5), pytest.raises(PeerTimeout, match=r"m \(its link is up"):
                    run.b.receive([Key(1, 0, "m")], 0.3)
            finally:
                over.set()
            replaying.result()
    assert run.refusals["m", "replayed"] > 1


@contextmanager
def bounded(seconds):
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


class Receiver:
    """A neighbour that sites may dial and that does as the test says."""

    def __init__(self, credentials, serve):
        self._context, self._serve = credentials.listening(), serve
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = self._socket.getsockname()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self):
        self._over.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _accept(self):
        held = []
        while not self._over.is_set():
            try:
                raw, _ = self._socket.accept()
                held.append(self._context.wrap_socket(raw, server_side=True))
                assert greeting_of(held[-1]).word is Word.HELLO
                self._serve(held[-1], self._over)
            except OSError:
                pass
        for connection in held:
            connection.close()


def acknowledgement(arrived, kind=Kind.ACK):
    return pack(Frame(kind, 0, arrived, 0))


def adoption(received=0, number=1):
    """What the end that leads says of a connection that counts."""
    return pack_greeting(Greeting(Word.ADOPT, received, number), RUN)


class Dialling:
    """The link of site x with the neighbour m that ``receiver`` plays; m leads, since its name is less."""

    def __init__(self, authority, sources="m"):
        self.sites = Sites(authority)
        self.link = self.sites.add("x", sources, ["m"], mode="direct", listens=False)

    def open(self, address, timeout=10):
        """What that raises; None for nothing."""
        return self.sites.open({"m": address}, timeout)["x"]


@contextmanager
def dialling(authority, receiver, **options):
    x = Dialling(authority, **options)
    try:
        yield x
    finally:
        with bounded(8):
            x.sites.close(patience=0)
        receiver.close()


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (adoption(1), "malformed"),
        (adoption(2**64 - 1), "malformed"),
        (HELLO, "malformed"),
        (acknowledgement(0) * 2, "malformed"),
        (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nServer: x\r\n\r\n", "malformed"),
        (pack_greeting(Greeting(Word.REFUSED, reason="a\nb\x1b[2Jcd"), RUN), r"a\nb\x1b[2J"),
    ],
)
def test_a_neighbour_that_answers_wrongly_is_refused(run, authority, mallory, reply, cause):
    receiver = Receiver(mallory, lambda connection, _: connection.sendall(reply))
    with run.undisturbed(), dialling(authority, receiver) as x:
        error = x.open(receiver.address)
        assert isinstance(error, LinkRefused)
        assert "x has no link to m" in str(error)
        assert cause in str(error)


@pytest.mark.parametrize(
    "lie",
    [
        acknowledgement(2),
        acknowledgement(2**64 - 1),
        pack(Frame(Kind.ACK, 0, 0, 1)),
        message(1, acknowledged=2),
    ],
)
def test_a_neighbour_that_acknowledges_what_was_never_sent_ends_the_run_with_its_name(
    run, authority, mallory, lie
):
    def serve(connection, _):
        connection.sendall(adoption())
        while unpack(read(connection, HEADER_BYTES)).kind is not Kind.DATA:
            pass
        connection.sendall(lie)

    receiver = Receiver(mallory, serve)
    with run.undisturbed(), dialling(authority, receiver) as x:
        assert x.open(receiver.address) is None
        x.link.send("m", Key(0, 0, "x"), [b""])
        with pytest.raises(LinkRefused, match=r"x has no link to m.*malformed"):
            x.link.receive([Key(5, 0, "m")], 10)


def test_a_neighbour_that_trickles_its_answer_is_given_up_in_time(run, authority, mallory, monkeypatch):
    monkeypatch.setattr(connector, "_DIAL_SECONDS", 0.5)
    monkeypatch.setattr(connector, "_ATTEMPT_SECONDS", 0.5)

    def serve(connection, over):
        for byte in adoption():
            connection.sendall(bytes([byte]))
            over.wait(0.1)

    receiver = Receiver(mallory, serve)
    with run.undisturbed(), dialling(authority, receiver) as x, bounded(4):
        assert "m: no answer in time" in str(x.open(receiver.address))


def test_a_neighbour_that_says_of_an_old_connection_that_it_counts_is_not_followed(run, authority, mallory):
    receiver = Receiver(mallory, lambda connection, _: connection.sendall(adoption(number=0)))
    with run.undisturbed(), dialling(authority, receiver) as x:
        assert "no sign of m" in str(x.open(receiver.address, timeout=0.5))


def test_a_neighbour_that_ends_every_connection_is_not_dialled_without_a_pause(run, authority, mallory):
    made = itertools.count(1)

    def serve(connection, _):
        connection.sendall(adoption(number=next(made)))
        connection.shutdown(socket.SHUT_RDWR)

    receiver = Receiver(mallory, serve)
    with run.undisturbed(), dialling(authority, receiver) as x:
        x.open(receiver.address)
        with pytest.raises(PeerTimeout):
            x.link.receive([Key(0, 0, "m")], 2)
    assert 2 < next(made) < 12


def test_a_neighbour_that_is_only_sent_to_has_nothing_to_say(run, authority, mallory):
    is_open = threading.Event()

    def serve(connection, _):
        connection.sendall(adoption())
        is_open.wait()
        connection.sendall(message(1))

    receiver = Receiver(mallory, serve)
    with run.undisturbed(), dialling(authority, receiver, sources="") as x:
        assert x.open(receiver.address) is None
        is_open.set()
        observer = x.sites.observers["x"]
        assert observer.wait_for(lambda: observer.refusals["m", "stranger"])


def test_a_neighbour_that_reads_nothing_does_not_hold_up_the_end(run, authority, mallory, monkeypatch):
    receiver = Receiver(mallory, lambda connection, over: connection.sendall(adoption()) or over.wait())
    with run.undisturbed(), dialling(authority, receiver) as x:
        assert x.open(receiver.address) is None
        for k in range(4):
            x.link.send("m", Key(k, 0, "x"), [bytes(10_000_000)])
        with bounded(3):
            x.link.close(patience=0.2)


@pytest.mark.parametrize("address", [("x" * 70, 1), ("localhost", 99_999), ("localhost", -1), ("", 0)])
def test_an_address_that_is_none_is_no_link(authority, monkeypatch, address):
    monkeypatch.setattr(connector, "_DIAL_SECONDS", 0.1)
    x = Dialling(authority)
    assert "x has no direct link to m" in str(x.open(address))
    x.sites.close()


def test_a_certificate_that_cannot_be_read_is_named(authority, tmp_path):
    identity = authority.issue("x")
    identity.certificate.write_text("nothing")
    sites = Sites(authority)
    with pytest.raises(LinkError, match=f"certificate {identity.certificate} cannot be used"):
        sites.add("x", [], ["m"], credentials=identity)
    sites.posts.put(None)


# any bytes at all


@st.composite
def pieces(draw):
    """What a neighbour may send: frames in order, frames with wrong fields, bytes."""
    sequence = draw(st.integers(1, 3))
    good = message(sequence, draw(st.binary(max_size=20)), iteration=draw(st.integers(-1, 3)))
    wrong = bytearray(good)
    # not what it acknowledges: a lie about that ends the pair, see above
    changed = draw(st.integers(0, len(good) - 1).filter(lambda place: not 16 <= place < 32))
    wrong[changed] = draw(st.integers(0, 255))
    cut = good[: draw(st.integers(0, len(good)))]
    return draw(st.sampled_from([good, good, bytes(wrong), cut, draw(st.binary(max_size=99))]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(pieces(), max_size=8))
def test_whatever_a_neighbour_sends_its_next_connection_is_served(authority, mallory, stream):
    assume(b"\4\0\0\0" not in b"".join(stream))  # which may say that m wants no more
    sites = Sites(authority)
    link = sites.add("b", ["m"], [], mode="direct", credentials=receiving(authority))
    with closing(sites):
        with greeted(link.address, mallory) as connection:
            try:
                connection.sendall(b"".join(stream))
                connection.unwrap()
            except OSError:  # cut off
                pass
        with connect(link.address, mallory) as connection:
            connection.sendall(HELLO)
            try:
                arrived = greeting_of(connection).received
            except ConnectionError:  # bytes that say, where they are read as a header, what ends the pair
                with pytest.raises(LinkRefused, match="acknowledges what was never sent"):
                    link.receive([Key(10**6, 0, "m")], 10)
                return
            connection.sendall(message(arrived + 1, b"in order", iteration=10**6))
            key = Key(10**6, 0, "m")
            assert bytes(link.receive([key], 10)[key]) == b"in order"
    reasons = {reason for _, reason in sites.observers["b"].refusals}
    assert reasons <= {"malformed", "oversized", "replayed"}


@functools.cache
def receiving(authority):
    return authority.issue("b")


# what is left


def test_nothing_is_left_after_the_end(authority):
    process = psutil.Process()
    threads, descriptors = set(threading.enumerate()), process.num_fds()
    sites = Sites(authority)
    run = Run(sites)
    mallory = authority.issue("m")  # now, because b has seen a certificate of m's
    with greeted(run.address, mallory) as stopped, ExitStack() as half_open:
        for _ in range(50):
            half_open.enter_context(socket.create_connection(run.address, 10))
        stopped.sendall(message(1)[:-1])
        run.exchange()
        run.cut()
        run.exchange()
        sites.close()
    run.proxies[0].close()
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)
    assert set(threading.enumerate()) <= threads
    assert process.num_fds() == descriptors
