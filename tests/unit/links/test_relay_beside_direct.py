"""With a direct connection up, nothing that the server does changes anything, and it costs little."""

import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import pytest
from direct_mesh import Proxy, exchange
from hostile_server import Server
from streams import relay_threads, until

from flaremesh.links import Refusal, connector
from flaremesh.links.carriers import stream as streams
from flaremesh.links.carriers.stream import PIECE_BYTES, Piece, PieceKind, pack
from flaremesh.topology.links import LinkKind

PAIRS = [("a", "b"), ("b", "a")]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(streams, "_ACK_SECONDS", 0.01)


@pytest.fixture
def server(authority):
    server = Server(authority)
    yield server
    server.close(patience=0)


@pytest.fixture
def behind(server, proxies):
    """Sites a and b with direct links alone between them, through a proxy before b; and the proxy."""
    server.add("a", "b", "b", listens=False)
    proxies.append(proxy := Proxy(server.add("b", "a", "a").address))
    return proxy


@pytest.fixture
def linked(server, behind):
    assert not any(server.open({"b": behind.address}).values())
    assert behind.connections == 1
    return server


def payload(sender, k):
    return f"{sender}{k}".encode() * 10_000


@contextmanager
def unchanged(server, proxy):
    """Fails unless the direct connection that there is carries all that is exchanged meanwhile and after."""
    over, iterations = threading.Event(), iter(range(1_000_000))

    def go_on():
        while not over.is_set():
            assert exchange(server, PAIRS, 1, payload, start=next(iterations)) == []

    with ThreadPoolExecutor(1) as pool:
        meanwhile = pool.submit(go_on)
        try:
            yield
        finally:
            over.set()
        meanwhile.result()
    assert exchange(server, PAIRS, 5, payload, start=next(iterations)) == []
    assert proxy.connections == 1
    for name in "ab":
        assert set(server.observers[name].links.values()) == {LinkKind.DIRECT}
        assert not server.observers[name].changes


def client_hello():
    """How a TLS session begins."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("site", ["a", "b"])
@pytest.mark.parametrize("content", [b"x", b"GET / HTTP/1.1\r\n\r\n", client_hello(), bytes(PIECE_BYTES)])
def test_thousands_of_streams_in_a_neighbours_name_change_nothing(linked, behind, site, content):
    neighbour = {"a": "b", "b": "a"}[site]
    process = psutil.Process()
    descriptors, threads, worst = process.num_fds(), threading.active_count(), [0, 0]
    with unchanged(linked, behind):
        for number in range(4000):
            stream = number.to_bytes(8, "little")
            linked.delivering[site](neighbour, pack(Piece(PieceKind.BEGIN, stream, 0, 0, b"")))
            linked.delivering[site](neighbour, pack(Piece(PieceKind.PIECE, stream, 1, 0, content)))
            if number % 100 == 0:
                worst[0] = max(worst[0], process.num_fds() - descriptors)
                worst[1] = max(worst[1], threading.active_count() - threads)
    assert worst[0] < 60
    assert worst[1] < 15
    refusals = linked.observers[site].refusals
    assert refusals[neighbour, Refusal.OVERLOAD] > 3500
    assert {peer for peer, _ in refusals} == {neighbour}


def test_a_flood_of_all_kinds_of_pieces_changes_nothing(linked, behind):
    with unchanged(linked, behind):
        for number in range(3000):
            kind = PieceKind(number % len(PieceKind))
            content = b"x" if kind is PieceKind.PIECE else b""
            stream = (number % 97).to_bytes(8, "little")
            linked.delivering["a"]("b", pack(Piece(kind, stream, number % 3, 2**64 - 1, content)))
            linked.delivering["b"]("a", pack(Piece(kind, stream, number % 3, 0, content)))
    assert until(lambda: relay_threads() <= 16)


def test_a_run_that_asked_for_direct_links_alone_takes_no_stream(server, proxies):
    server.add("a", "b", "b", mode="direct", listens=False)
    proxies.append(proxy := Proxy(server.add("b", "a", "a", mode="direct").address))
    assert not any(server.open({"b": proxy.address}).values())
    with unchanged(server, proxy):
        for number in range(100):
            data = pack(Piece(PieceKind.BEGIN, number.to_bytes(8, "little"), 0, 0, b""))
            for name, other in PAIRS:
                server.delivering[name](other, data)
        assert relay_threads() == 0
    for name, other in PAIRS:
        assert server.observers[name].refusals == {(other, Refusal.CARRIER): 100}
    assert not server.relayed


@pytest.fixture
def hurried(monkeypatch):
    """The relay is tried soon, and so is what is better."""
    monkeypatch.setattr(connector, "_DIAL_SECONDS", 0.1)
    monkeypatch.setattr(connector, "_RETURN_SECONDS", 0.1)


def test_what_the_leading_end_said_on_an_older_stream_comes_too_late(server, behind, hurried, monkeypatch):
    """The server holds back that a goes on over the relay, until both have gone on over a direct link."""
    monkeypatch.setattr(connector, "_ATTEMPT_SECONDS", 0.5)
    a, b = server.observers["a"], server.observers["b"]
    behind.passing.clear()
    server.hold(lambda post: post.sender == "a" and a.links.get("b") is LinkKind.RELAY)
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(server.open, {"b": behind.address})
        assert a.wait_for(lambda: a.links.get("b") is LinkKind.RELAY)
        behind.passing.set()
        assert not any(opening.result().values())
    assert a.wait_for(lambda: a.links["b"] is LinkKind.DIRECT)
    assert b.links["a"] is LinkKind.DIRECT
    assert exchange(server, PAIRS, 3, payload) == []
    connections = behind.connections
    server.release()
    assert until(lambda: relay_threads() == 0)  # both have dealt with it
    assert exchange(server, PAIRS, 3, payload, start=3) == []
    assert behind.connections == connections
    assert not b.changes


def test_a_stream_that_was_begun_before_the_direct_link_was_made_does_not_replace_it(
    server, proxies, hurried, monkeypatch
):
    """The server holds back what b answers to a, which leads, until b has dialled a."""
    monkeypatch.setattr(connector, "_ATTEMPT_SECONDS", 5)
    proxies.append(proxy := Proxy(server.add("a", "b", "b").address))
    server.add("b", "a", "a", listens=False)
    proxy.passing.clear()
    a = server.observers["a"]
    server.hold(lambda post: post.sender == "b")
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(server.open, {"a": proxy.address})
        assert until(lambda: any(post.sender == "a" for post in server.seen))
        proxy.passing.set()
        assert not any(opening.result().values())
    assert a.links["b"] is LinkKind.DIRECT
    assert exchange(server, PAIRS, 3, payload) == []
    server.release()
    assert until(lambda: relay_threads() == 0)
    assert exchange(server, PAIRS, 3, payload, start=3) == []
    assert proxy.connections == 1
    assert a.links["b"] is LinkKind.DIRECT
    assert not a.changes


def test_a_server_that_answers_the_relay_itself_ends_no_edge_that_a_direct_link_heals(
    server, behind, hurried, authority
):
    """The relay is tried while the direct link is broken, and somebody else answers there."""
    assert not any(server.open({"b": behind.address}).values())
    assert exchange(server, PAIRS, 3, payload) == []
    impostor = Server(authority)
    impostor.add("b", "a", "a", mode="relay", credentials=authority.issue("z"))
    impostor.meddle = lambda post: server.bring(post) or []
    server.meddle = lambda post: (impostor.bring(post) or []) if post.peer == "b" else []
    a = server.observers["a"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connector, "_ATTEMPT_SECONDS", 0.3)
        patch.setattr(connector, "_DIAL_SECONDS", 4.0)
        patch.setattr(connector, "_BACKOFF_SECONDS_MAX", 0.1)
        behind.passing.clear()
        behind.cut()
        assert a.wait_for(lambda: a.refusals["b", Refusal.STRANGER] >= 1)
        behind.passing.set()
        assert exchange(server, PAIRS, 3, payload, start=3) == []
    assert a.links["b"] is LinkKind.DIRECT
    assert not a.changes
    impostor.close(patience=0)
