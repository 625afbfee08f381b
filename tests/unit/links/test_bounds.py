"""What a peer can make a site hold is a few messages, and only one carrier brings what it sends."""

import time
from contextlib import closing

import pytest
from direct_mesh import Proxy, edges_of, exchange, message
from test_hostile import Receiver, acknowledgement, greeted

from flaremesh.links import Key, Link, LinkKind, PeerBehind, Refusal, send_in_time
from flaremesh.links.direct import DirectCarrier, outgoing
from flaremesh.links.frame import Frame, Kind, pack, run_digest
from flaremesh.links.relay import RelayCarrier

RUN = run_digest("run")
LENGTH = 1 << 20
GIANT = 1 << 31


def first_of(total, sequence=1, iteration=0, piece=b"x"):
    """The first frame of a message of ``total`` bytes."""
    return pack(Frame(Kind.DATA, sequence, 0, iteration, 0, 0, total, piece), RUN)


class Server:
    """A transport that nobody else is on."""

    def __init__(self):
        self.posted = []

    def post(self, peer, data):
        self.posted.append(data)

    def listen(self, deliver):
        self.deliver = deliver


@pytest.fixture
def relayed():
    """A site b that hears a by the relay alone, not yet knowing how long messages are."""
    edges, server = edges_of("b", sources="a"), Server()
    carrier = RelayCarrier(edges, server)
    yield edges, server, carrier
    carrier.close(patience=0)


def held(carrier, peer="a"):
    """Bytes that the carrier and the inbox hold of a peer."""
    partial = carrier._incoming[peer].partial.values()
    return sum(len(message.data) for message in partial) + carrier._inbox.waiting(peer)[1]


# before it is known how long messages are


def test_giants_wait_outside_until_the_length_is_known_and_are_refused_then(relayed):
    edges, server, carrier = relayed
    for k in range(8):
        server.deliver("a", first_of(GIANT, k + 1, k))
    assert edges.observer.refusals == {("a", Refusal.EARLY): 8}
    edges.inbox.expect(LENGTH)
    for k in range(8):
        server.deliver("a", first_of(GIANT, k + 1, k))
    assert edges.observer.refusals["a", Refusal.OVERSIZED] == 8
    assert held(carrier) == 0
    assert "is its model another one?" in carrier.condition("a")


def test_a_message_that_comes_too_early_is_not_lost(relayed):
    edges, server, _ = relayed
    data = first_of(2 * LENGTH, piece=bytes(2 * LENGTH))
    server.deliver("a", data)
    assert edges.observer.refusals == {("a", Refusal.EARLY): 1}
    edges.inbox.expect(2 * LENGTH)
    server.deliver("a", data)
    assert len(edges.inbox.take([Key(0, 0, "a")], 0)[Key(0, 0, "a")]) == 2 * LENGTH


def test_a_neighbour_dials_in_early_and_its_giant_takes_no_memory(authority):
    edges = edges_of("b", sources="m")
    link = DirectCarrier(edges, authority.issue("b"), ("127.0.0.1", (0, 0)))
    with closing(link), greeted(link.address, authority.issue("m")) as connection:
        connection.sendall(first_of(GIANT, piece=bytes(LENGTH)))
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):  # neither taken nor refused
            connection.recv(1)
        assert edges.inbox.waiting("m") == (0, 0)
        assert not edges.observer.refusals
        edges.inbox.expect(LENGTH)
        assert edges.observer.wait_for(lambda: edges.observer.refusals["m", Refusal.OVERSIZED] == 1)
        assert link.condition("m").endswith("is its model another one?")


def test_a_neighbour_that_is_early_waits_and_its_message_is_taken_then(authority):
    edges = edges_of("b", sources="m")
    link = DirectCarrier(edges, authority.issue("b"), ("127.0.0.1", (0, 0)))
    with closing(link), greeted(link.address, authority.issue("m")) as connection:
        connection.sendall(first_of(2 * LENGTH, piece=bytes(2 * LENGTH)))
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        edges.inbox.expect(2 * LENGTH)
        key = Key(0, 0, "m")
        assert len(edges.inbox.take([key], 10)[key]) == 2 * LENGTH


# once it is known


def test_messages_that_nobody_asked_for_fill_a_few_places_and_no_more(relayed):
    edges, server, carrier = relayed
    edges.inbox.expect(LENGTH)
    for k in range(100):
        sequence = carrier._incoming["a"].received + 1
        server.deliver("a", first_of(LENGTH, sequence, 10**6 + k, bytes(LENGTH)))
    assert held(carrier) <= 8 * LENGTH
    assert edges.observer.refusals["a", Refusal.EARLY] == 92


def test_pieces_of_many_messages_fill_a_few_places_and_no_more(relayed):
    edges, server, carrier = relayed
    edges.inbox.expect(200 * LENGTH)
    for k in range(8):
        server.deliver("a", first_of(200 * LENGTH, k + 1, k))
    assert held(carrier) <= 1 << 30


def test_a_second_message_under_a_name_is_counted(relayed):
    edges, server, _ = relayed
    server.deliver("a", first_of(5, 1, 0, b"first"))
    server.deliver("a", first_of(6, 2, 0, b"second"))
    assert edges.observer.refusals == {("a", Refusal.REPLAYED): 1}
    assert bytes(edges.inbox.take([Key(0, 0, "a")], 0)[Key(0, 0, "a")]) == b"first"


# peers that take nothing


def test_a_relayed_peer_that_never_acknowledges_is_named_and_little_is_held_for_it():
    server = Server()
    carrier = RelayCarrier(edges_of("a", targets="b"), server)
    sent = 0
    with pytest.raises(PeerBehind, match="b has not taken the last 8 messages"):  # noqa: PT012  (which send fails is said below)
        for sent in range(100):
            carrier.send("b", message("a", sent, bytes(LENGTH)))
    carrier.close(patience=0)
    assert sent == 8
    assert carrier._outgoing["b"].bytes == 8 * LENGTH


def test_a_peer_that_never_acknowledges_ends_the_edge_within_the_peer_timeout(authority):
    def serve(connection, over):
        connection.sendall(acknowledgement(0))
        while connection.recv(1 << 16):  # reads all of it, and never says so
            pass

    receiver = Receiver(authority.issue("m"), serve)
    carrier = DirectCarrier(edges_of("x", targets="m"), authority.issue("x"), None)
    carrier.open({"m": receiver.address}, lambda *edge: None, 10)

    class Sender(Link):
        def send(self, peer, key, buffers):
            carrier.send(peer, message("x", key.iteration, *buffers))

    started, sent = time.monotonic(), 0
    with pytest.raises(PeerBehind, match="m has not taken"):  # noqa: PT012  (which send fails is said below)
        for sent in range(100):
            send_in_time(Sender(), "m", Key(sent, 0, "x"), [bytes(LENGTH)], 0.5)
    assert time.monotonic() - started < 5
    assert sent == 8
    carrier.close(patience=0)
    receiver.close()


# one carrier at a time


def test_a_run_by_direct_links_takes_nothing_from_the_relay(sites):
    sites.add("a", [], ["b"], mode="direct")
    sites.add("b", ["a"], [], mode="direct")
    assert not any(sites.open().values())
    for kind in (Kind.DATA, Kind.REPEAT, Kind.HELLO, Kind.ACK):
        sites.delivering["b"]("a", pack(Frame(kind, 1, 0, 0, 0, 0, 1, b"x"), RUN))
    assert sites.observers["b"].refusals == {("a", Refusal.CARRIER): 4}
    assert exchange(sites, [("a", "b")], 3, lambda sender, k: b"%d" % k) == []


def test_the_relay_brings_nothing_while_the_direct_link_is_up_and_all_once_it_has_broken(
    sites, proxies, monkeypatch
):
    monkeypatch.setattr(outgoing, "_DIAL_SECONDS", 0.5)
    sites.add("a", [], ["b"])
    proxies.append(Proxy(sites.add("b", ["a"], []).address))
    (proxy,), b = proxies, sites.observers["b"]
    assert not any(sites.open({"b": proxy.address}).values())
    assert exchange(sites, [("a", "b")], 3, lambda sender, k: b"%d" % k) == []
    _, relay = sites.links["a"]._carriers
    relay.send("b", message("a", 3, b"by the relay"))
    assert b.wait_for(lambda: b.refusals["a", Refusal.CARRIER] == 1)
    assert Key(3, 0, "a") not in sites.links["b"]._inbox
    assert not b.changes
    proxy.refuse()
    proxy.cut()
    assert bytes(sites.links["b"].receive([Key(3, 0, "a")], 20)[Key(3, 0, "a")]) == b"by the relay"
    assert b.changes == {("a", LinkKind.RELAY): 1}


def test_the_relay_takes_over_where_the_network_tells_one_end_alone_that_a_connection_is_gone(
    sites, proxies, monkeypatch, authority
):
    monkeypatch.setattr(outgoing, "_DIAL_SECONDS", 0.5)
    of_a = authority.issue("a")
    sites.add("a", [], ["b"], credentials=of_a)
    address = sites.add("b", ["a"], []).address
    proxies.append(Proxy(address))
    (proxy,), b = proxies, sites.observers["b"]
    assert not any(sites.open({"b": proxy.address}).values())
    assert exchange(sites, [("a", "b")], 3, lambda sender, k: b"%d" % k) == []
    proxy.refuse()
    with greeted(address, of_a):  # in the eyes of b the connection of a, which is cut off from b and gives up
        assert exchange(sites, [("a", "b")], 3, lambda sender, k: b"%d" % k, start=3) == []
    assert b.refusals["a", Refusal.CARRIER] >= 1
    assert b.changes == {("a", LinkKind.RELAY): 1}


def test_a_relayed_message_that_is_repeated_ends_no_direct_link_that_was_made_since(sites, authority):
    of_a, posted = authority.issue("a"), []
    sites.add("a", [], ["b"], mode="relay", credentials=of_a)
    address, b = sites.add("b", ["a"], []).address, sites.observers["b"]
    assert not any(sites.open().values())
    deliver = sites.delivering["b"]
    sites.delivering["b"] = lambda sender, data: [posted.append(bytes(data)), deliver(sender, data)]
    assert exchange(sites, [("a", "b")], 3, lambda sender, k: b"%d" % k) == []
    with greeted(address, of_a) as connection:
        connection.sendall(pack(Frame(Kind.DATA, 1, 0, 3, 0, 0, 1, b"x"), RUN))
        assert b.wait_for(lambda: b.changes["a", LinkKind.DIRECT] == 1)
        for data in posted:
            deliver("a", data)
        connection.sendall(pack(Frame(Kind.DATA, 2, 0, 4, 0, 0, 1, b"y"), RUN))
        assert bytes(sites.links["b"].receive([Key(4, 0, "a")], 10)[Key(4, 0, "a")]) == b"y"
    assert not b.refusals
