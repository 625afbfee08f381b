"""Whoever dials a site and attacks it is refused and counted, and the run beside it does not notice."""

import functools
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import psutil
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from direct_mesh import Sites
from hostile_run import HELLO, RUN, Run, bounded, connect, greeted, greeting_of, is_over, message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flaremesh.links import Key, LinkRefused, PeerTimeout, Refusal, reception
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
)

CROWD = 1000


@pytest.fixture
def others(authority):
    """Another mesh, of attackers."""
    mesh = Sites(authority)
    yield mesh
    mesh.close(patience=0)


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


# any bytes at all


@st.composite
def pieces(draw):
    """What a neighbour may send: frames in order, frames with wrong fields, bytes."""
    sequence = draw(st.integers(1, 6))
    good = message(sequence, draw(st.binary(max_size=20)), iteration=draw(st.integers(-1, 5)))
    wrong = bytearray(good)
    # not what it acknowledges: a lie about that ends the pair, see above
    changed = draw(st.integers(0, len(good) - 1).filter(lambda place: not 16 <= place < 32))
    wrong[changed] = draw(st.integers(0, 255))
    cut = good[: draw(st.integers(0, len(good)))]
    return draw(st.sampled_from([good, good, bytes(wrong), cut, draw(st.binary(max_size=99))]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(pieces(), max_size=8))
def test_whatever_a_neighbour_sends_its_next_connection_is_served(authority, mallory, stream):
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
                connection.sendall(message(arrived + 1, b"in order", iteration=10**6))
                key = Key(10**6, 0, "m")
                assert bytes(link.receive([key], 10)[key]) == b"in order"
            except (AssertionError, OSError, LinkRefused):
                # what follows a piece that was cut may read as a lie about what it has got
                assert "acknowledges what was never sent" in str(link._pairs["m"].failure)
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
