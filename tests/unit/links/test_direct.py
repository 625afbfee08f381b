"""Direct links between sites of one process: real sockets, real TLS, real certificates."""

import itertools
import threading

import pytest
from direct_mesh import Proxy, edges_of, exchange

from flaremesh.links import Key, LinkError, LinkKind, PeerTimeout, inbox, link, send_in_time
from flaremesh.links.direct import DirectCarrier, connection, outgoing

BOTH = [("a", "b"), ("b", "a")]


def numbered(length):
    return lambda sender, k: f"{sender}{k:06d}".encode() * (length // 7)


@pytest.fixture
def pair(sites):
    sites.add("a", ["b"], ["b"])
    sites.add("b", ["a"], ["a"])
    assert not any(sites.open().values())
    return sites


@pytest.fixture
def behind_proxy(proxies, sites):
    """a reaches b through a proxy, b reaches a directly."""
    sites.add("a", ["b"], ["b"])
    proxy = Proxy(sites.add("b", ["a"], ["a"]).address)
    proxies.append(proxy)
    assert not any(sites.open({"b": proxy.address}).values())
    return sites, proxy


@pytest.mark.parametrize("length", [7, 7_000, 70_000, 7_000_000])
def test_messages_of_every_size_arrive_unchanged(pair, length):
    assert exchange(pair, BOTH, 20, numbered(length)) == []


def test_nothing_but_the_greetings_passes_the_relay(pair):
    before = sum(pair.relayed.values())
    exchange(pair, BOTH, 50, numbered(70_000))
    assert sum(pair.relayed.values()) == before
    assert pair.observers["a"].links == {"b": LinkKind.DIRECT}


def test_a_directed_edge_needs_no_edge_back(sites):
    sites.add("a", [], ["b"], listens=False)
    sites.add("b", ["a"], [])
    assert not any(sites.open().values())
    assert exchange(sites, [("a", "b")], 300, numbered(700)) == []


def test_a_ring_of_six_exchanges(sites):
    names = "abcdef"
    for before, name, after in zip(names[-1] + names[:-1], names, names[1:] + names[0], strict=True):
        sites.add(name, [before, after], [before, after])
    assert not any(sites.open().values())
    pairs = [pair for x, y in zip(names, names[1:] + names[0], strict=True) for pair in ((x, y), (y, x))]
    assert exchange(sites, pairs, 100, numbered(70)) == []


def test_a_message_in_several_buffers_arrives_as_one(pair):
    a, b = pair.links["a"], pair.links["b"]
    for k, length in enumerate((3, 100_000)):
        a.send("b", Key(k, 0, "a"), [b"x" * length, memoryview(b"y" * length)])
        assert bytes(b.receive([Key(k, 0, "a")], 5)[Key(k, 0, "a")]) == b"x" * length + b"y" * length


def test_a_site_without_an_address_is_relayed_to_and_dials_itself(sites):
    sites.add("a", ["b"], ["b"], listens=False)
    sites.add("b", ["a"], ["a"])
    assert not any(sites.open().values())
    assert exchange(sites, BOTH, 20, numbered(700)) == []
    assert sites.observers["a"].links == {"b": LinkKind.DIRECT}
    assert sites.observers["b"].links == sites.observers["b"].wanted == {"a": LinkKind.RELAY}


def test_an_address_where_nobody_listens_is_relayed_to(sites, monkeypatch):
    monkeypatch.setattr(outgoing, "_DIAL_SECONDS", 0.5)
    sites.add("a", ["b"], ["b"])
    sites.add("b", ["a"], ["a"])
    assert not any(sites.open({"b": ("127.0.0.1", 9)}).values())
    assert exchange(sites, BOTH, 20, numbered(700)) == []
    assert sites.observers["a"].links == {"b": LinkKind.RELAY}
    assert sites.observers["a"].wanted == {"b": LinkKind.DIRECT}


def test_mode_direct_fails_before_the_first_iteration_where_auto_would_relay(sites):
    sites.add("a", ["b"], ["b"], mode="direct", listens=False)
    sites.add("b", ["a"], ["a"], mode="direct")
    failure = sites.open(timeout=0.5)["b"]
    assert isinstance(failure, LinkError)
    assert "b has no direct link to a: it has no link address" in str(failure)


def test_a_broken_connection_is_made_again_and_nothing_is_lost(behind_proxy):
    sites, proxy = behind_proxy
    for k in range(10):
        proxy.cut()
        assert exchange(sites, BOTH, 10, numbered(7 * 10 ** (k % 6)), start=10 * k) == []
    assert proxy.connections > 5
    assert sites.observers["a"].links == {"b": LinkKind.DIRECT}


def test_an_edge_that_cannot_be_made_again_is_relayed_without_losing_an_iteration(behind_proxy, monkeypatch):
    monkeypatch.setattr(outgoing, "_DIAL_SECONDS", 0.5)
    sites, proxy = behind_proxy
    assert exchange(sites, BOTH, 10, numbered(70_000)) == []
    proxy.refuse()
    proxy.cut()
    assert exchange(sites, BOTH, 10, numbered(70_000), start=10) == []
    assert sites.observers["a"].links == {"b": LinkKind.RELAY}
    assert sites.observers["a"].wanted == {"b": LinkKind.DIRECT}
    assert sites.observers["b"].links == {"a": LinkKind.DIRECT}


@pytest.fixture
def returning(behind_proxy, monkeypatch):
    """Two sites, of which one has gone over to the relay and dials again ten times a second."""
    monkeypatch.setattr(outgoing, "_DIAL_SECONDS", 0.5)
    monkeypatch.setattr(outgoing, "_ATTEMPT_SECONDS", 0.5)
    monkeypatch.setattr(outgoing, "_RETURN_SECONDS", 0.1)
    monkeypatch.setattr(outgoing, "_RETURN_SECONDS_MAX", 0.1)
    sites, proxy = behind_proxy

    def go_over():
        proxy.passing.clear()
        proxy.cut()
        assert sites.observers["a"].wait_for(lambda: sites.observers["a"].links["b"] is LinkKind.RELAY)

    return sites, proxy, go_over


def refused(observer, peer):
    """Why what a peer sent was refused; an attempt to connect that was cut off is nobody's."""
    return {reason for sender, reason in observer.refusals if sender == peer}


def test_an_edge_that_is_relayed_returns_to_the_direct_link_and_nothing_is_lost_or_doubled(returning):
    sites, proxy, go_over = returning
    a, b = sites.observers["a"], sites.observers["b"]
    assert exchange(sites, BOTH, 5, numbered(70_000)) == []
    start = 5
    for _ in range(3):
        go_over()
        assert exchange(sites, BOTH, 5, numbered(70_000), start=start) == []
        proxy.passing.set()
        start += 5
        while a.links["b"] is LinkKind.RELAY:  # it returns with a message
            assert exchange(sites, BOTH, 5, numbered(70_000), start=start) == []
            start += 5
            assert start < 5000
    relayed = sites.relayed["a", "b"]
    assert exchange(sites, BOTH, 5, numbered(70_000), start=start) == []
    assert sites.relayed["a", "b"] - relayed < 70_000  # late acknowledgements at most
    assert b.changes == {("a", LinkKind.RELAY): 3, ("a", LinkKind.DIRECT): 3}
    assert a.links == a.wanted == {"b": LinkKind.DIRECT}
    assert not refused(b, "a")
    assert b.received_bytes["a"] == 70_000 * (start + 5)


def test_it_returns_although_the_relay_loses_and_repeats_what_it_brings(returning):
    sites, proxy, go_over = returning
    go_over()
    sites.repeating, sites.losing = True, 3
    assert exchange(sites, BOTH, 5, numbered(700)) == []
    proxy.passing.set()
    start = 5
    while sites.observers["a"].links["b"] is LinkKind.RELAY:
        assert exchange(sites, BOTH, 5, numbered(700), start=start) == []
        start += 5
    assert exchange(sites, BOTH, 5, numbered(700), start=start) == []
    assert not refused(sites.observers["b"], "a")


def test_it_stays_relayed_as_long_as_what_was_relayed_has_not_arrived(returning, monkeypatch):
    monkeypatch.setattr(outgoing, "_SETTLE_SECONDS", 0.1)
    sites, proxy, go_over = returning
    go_over()
    a, b = sites.links["a"], sites.links["b"]
    a.send("b", Key(0, 0, "a"), [b"0"])
    b.receive([Key(0, 0, "a")], 10)
    sites.losing = 10**6
    a.send("b", Key(1, 0, "a"), [b"1"])
    before = proxy.connections
    proxy.passing.set()
    assert proxy.carries(before + 5)  # each of which is given up
    a.send("b", Key(2, 0, "a"), [b"2"])
    assert Key(2, 0, "a") not in b._inbox
    sites.losing = 0
    arrived = b.receive([Key(k, 0, "a") for k in (1, 2)], 20)
    assert {key.iteration: bytes(data) for key, data in arrived.items()} == {1: b"1", 2: b"2"}


def test_in_mode_direct_nothing_takes_the_relay_after_a_link_is_lost(proxies, sites, monkeypatch):
    monkeypatch.setattr(outgoing, "_DIAL_SECONDS", 0.5)
    sites.add("a", [], ["b"], mode="direct")
    proxy = Proxy(sites.add("b", ["a"], [], mode="direct").address)
    proxies.append(proxy)
    assert not any(sites.open({"b": proxy.address}).values())
    relayed = sites.relayed["a", "b"]
    proxy.refuse()
    proxy.cut()

    lost = "a lost its direct link to b and cannot make it again"
    with pytest.raises(LinkError, match=lost):
        sites.links["a"].receive([Key(0, 0, "b")], 20)
    with pytest.raises(LinkError, match=lost):
        sites.links["a"].send("b", Key(0, 0, "a"), [b"x"])
    assert sites.relayed["a", "b"] == relayed


def test_a_message_that_no_link_carries_is_refused_with_what_to_do(pair, monkeypatch):
    monkeypatch.setattr(link, "MAX_MESSAGE_BYTES", 10)
    pair.links["a"].send("b", Key(0, 0, "a"), [bytes(10)])
    with pytest.raises(LinkError, match=r"a has 11 bytes for b in iteration 2.*narrower `wire`"):
        pair.links["a"].send("b", Key(1, 0, "a"), [bytes(5), bytes(6)])


def test_a_receiver_with_a_full_inbox_is_not_taken_for_gone(behind_proxy, monkeypatch):
    monkeypatch.setattr(connection, "_GONE_MILLISECONDS", 1000)
    monkeypatch.setattr(outgoing, "_DIAL_SECONDS", 1.0)
    monkeypatch.setattr(inbox, "_EARLY_BYTES", 1 << 20)
    sites, proxy = behind_proxy
    proxy.cut()  # the next connection has the timeout of this test
    payload = numbered(7_000_000)
    for k in range(8):
        sites.links["a"].send("b", Key(k, 0, "a"), [payload("a", k)])
    assert proxy.carries(proxy.connections + 3)
    for k in range(8):
        key = Key(k, 0, "a")
        assert bytes(sites.links["b"].receive([key], 20)[key]) == payload("a", k)
    assert sites.observers["a"].links == {"b": LinkKind.DIRECT}


@pytest.mark.parametrize("way", ["direct", "relay"])
def test_a_site_that_ends_waits_until_its_last_message_has_arrived(behind_proxy, monkeypatch, way):
    monkeypatch.setattr(outgoing, "_DIAL_SECONDS", 0.5)
    sites, proxy = behind_proxy
    proxy.passing.clear()
    message = bytes(range(256)) * 10_000
    sites.links["a"].send("b", Key(0, 0, "a"), [message])
    closer = threading.Thread(target=sites.links.pop("a").close, kwargs={"patience": 30})
    closer.start()
    closer.join(0.5)
    assert closer.is_alive()
    if way == "relay":
        proxy.refuse()
        proxy.cut()
    proxy.passing.set()
    key = Key(0, 0, "a")
    assert bytes(sites.links["b"].receive([key], 20)[key]) == message
    closer.join(10)
    assert not closer.is_alive()


@pytest.mark.parametrize("length", [7, 7_000_000])
def test_a_wait_is_counted_for_the_neighbour_whose_message_was_late(sites, length):
    sites.add("a", [], ["c"])
    sites.add("b", [], ["c"])
    sites.add("c", ["a", "b"], [])
    assert not any(sites.open().values())
    sites.links["a"].send("c", Key(0, 0, "a"), [bytes(length)])
    threading.Timer(0.5, sites.links["b"].send, ("c", Key(0, 0, "b"), [bytes(length)])).start()
    sites.links["c"].receive([Key(0, 0, "a"), Key(0, 0, "b")], 20)
    waits = sites.observers["c"].waits
    assert waits["b"] >= 0.4
    assert waits["a"] < 0.4


def test_a_peer_that_is_slow_is_told_from_one_that_is_gone(pair):
    with pytest.raises(PeerTimeout, match=r"b \(its link is up: it is slow"):
        pair.links["a"].receive([Key(0, 0, "b")], 0.3)
    pair.links.pop("b").close(patience=0)
    with pytest.raises(PeerTimeout, match=r"b \(its link broke \d s ago: it is gone"):
        pair.links["a"].receive([Key(0, 0, "b")], 0.5)


def test_what_was_sent_last_arrives_although_the_sender_closes_at_once(pair):
    for k in range(20):
        pair.links["a"].send("b", Key(k, 0, "a"), [b"x" * 50_000])
    pair.links.pop("a").close()
    keys = [Key(k, 0, "a") for k in range(20)]
    assert len(pair.links["b"].receive(keys, 5)) == 20


def test_a_sender_that_runs_ahead_is_held_back_and_loses_nothing(pair):
    for k in range(600):
        send_in_time(pair.links["a"], "b", Key(k, 0, "a"), [b"%d" % k], 5)
    for k in range(600):
        key = Key(k, 0, "a")
        assert bytes(pair.links["b"].receive([key], 5)[key]) == b"%d" % k


def test_two_runs_at_once_take_two_ports_of_the_range(authority):
    def link(run, ports):
        return DirectCarrier(edges_of("a", run_id=run), authority.issue("a"), ("127.0.0.1", ports))

    probe = link("probe", (0, 0))
    port = probe.address[1]
    probe.close()
    first = link("one", (port, port + 50))
    second = link("two", (port, port + 50))
    assert port <= first.address[1] < second.address[1] <= port + 50
    with pytest.raises(LinkError, match="is taken"):
        link("three", (first.address[1],) * 2)
    for made in (first, second):
        made.close()


@pytest.mark.parametrize("length", [7, 70_000])
def test_received_messages_stay_as_they_are_while_later_ones_arrive(pair, length):
    kept = []
    for k in itertools.takewhile(lambda k: k < 20, itertools.count()):
        pair.links["a"].send("b", Key(k, 0, "a"), [numbered(length)("a", k)])
        kept.append(pair.links["b"].receive([Key(k, 0, "a")], 5)[Key(k, 0, "a")])
    assert [bytes(data) for data in kept] == [numbered(length)("a", k) for k in range(20)]
