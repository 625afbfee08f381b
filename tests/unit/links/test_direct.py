"""Direct links between sites of one process: real sockets, real TLS, real certificates."""

import socket
import threading
import time
from contextlib import closing, suppress

import pytest
from direct_mesh import Proxy, exchange
from neighbour import nothing_left

from flaremesh.links import (
    EdgeLost,
    Key,
    LinkError,
    LinkKind,
    PeerTimeout,
    channel,
    inbox,
    link,
    send_in_time,
)
from flaremesh.links import connector as outgoing
from flaremesh.links.carriers.direct import bind

BOTH = [("a", "b"), ("b", "a")]


def numbered(length):
    return lambda sender, k: f"{sender}{k:06d}".encode() * (length // 7)


@pytest.fixture
def pair(sites):
    sites.add("a", ["b"], ["b"])
    sites.add("b", ["a"], ["a"])
    assert not any(sites.open().values())
    return sites


@pytest.fixture(params=["leads", "follows"])
def behind_proxy(request, proxies, sites):
    """Two sites, of which one, that has no address itself, reaches the other one through a proxy."""
    dials = {"leads": "a", "follows": "b"}[request.param]
    links = {name: sites.add(name, [other], [other], listens=name != dials) for name, other in BOTH}
    (reached,) = (name for name in links if name != dials)
    proxy = Proxy(links[reached].address)
    proxies.append(proxy)
    assert not any(sites.open({reached: proxy.address}).values())
    assert proxy.connections == 1
    return sites, proxy


def kinds(sites):
    """What carries each edge, from either end."""
    return {observer.links[peer] for observer in sites.observers.values() for peer in observer.links}


@pytest.mark.parametrize("length", [7, 7_000, 70_000, 7_000_000])
def test_messages_of_every_size_arrive_unchanged(pair, length):
    assert exchange(pair, BOTH, 20, numbered(length)) == []


def test_nothing_passes_the_relay(pair):
    exchange(pair, BOTH, 50, numbered(70_000))
    assert not pair.relayed
    assert kinds(pair) == {LinkKind.DIRECT}


def test_one_connection_carries_both_directions(behind_proxy):
    sites, proxy = behind_proxy
    assert exchange(sites, BOTH, 50, numbered(70_000)) == []
    assert proxy.connections == 1
    assert kinds(sites) == {LinkKind.DIRECT}
    assert not sites.relayed


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


@pytest.mark.parametrize("listens", ["a", "b"])
def test_one_address_suffices_for_both_directions(sites, listens):
    for name, other in BOTH:
        sites.add(name, [other], [other], mode="direct", listens=name == listens)
    assert not any(sites.open().values())
    assert exchange(sites, BOTH, 20, numbered(700)) == []
    for name, other in BOTH:
        observer = sites.observers[name]
        assert observer.links == observer.wanted == {other: LinkKind.DIRECT}
        assert observer.dialled_back == {other: other != listens}


def test_where_neither_has_an_address_the_relay_is_no_fault(sites):
    for name, other in BOTH:
        sites.add(name, [other], [other], listens=False)
    started = time.monotonic()
    assert not any(sites.open().values())
    assert time.monotonic() - started < outgoing._DIAL_SECONDS
    assert exchange(sites, BOTH, 20, numbered(700)) == []
    for name, other in BOTH:
        observer = sites.observers[name]
        assert observer.links == observer.wanted == {other: LinkKind.RELAY}


def test_the_end_that_follows_dials_where_the_other_one_does_not_get_through(sites, monkeypatch):
    monkeypatch.setattr("flaremesh.links.carriers.direct.HEAD_START", 0.2)
    for name, other in BOTH:
        sites.add(name, [other], [other], mode="direct")
    assert not any(sites.open({"b": ("127.0.0.1", 9)}).values())
    assert exchange(sites, BOTH, 20, numbered(700)) == []


def test_addresses_where_nobody_listens_are_relayed_to_and_dialled_again(sites, proxies, monkeypatch):
    """The relay was taken at the start already."""
    monkeypatch.setattr(outgoing, "_DIAL_SECONDS", 0.3)
    monkeypatch.setattr(outgoing, "_RETURN_SECONDS", 0.1)
    monkeypatch.setattr(outgoing, "_ATTEMPT_SECONDS", 0.5)
    sites.add("a", ["b"], ["b"], listens=False)
    proxies.append(Proxy(sites.add("b", ["a"], ["a"]).address))
    (proxy,), a = proxies, sites.observers["a"]
    proxy.passing.clear()
    assert not any(sites.open({"b": proxy.address}).values())
    assert exchange(sites, BOTH, 20, numbered(700)) == []
    assert a.links == {"b": LinkKind.RELAY}
    assert a.wanted == {"b": LinkKind.DIRECT}
    proxy.passing.set()
    assert a.wait_for(lambda: a.links == {"b": LinkKind.DIRECT})
    assert exchange(sites, BOTH, 20, numbered(700), start=20) == []
    assert kinds(sites) == {LinkKind.DIRECT}


def test_mode_direct_fails_before_the_first_iteration_where_auto_would_relay(sites):
    for name, other in BOTH:
        sites.add(name, [other], [other], mode="direct", listens=False)
    for name, failure in sites.open(timeout=0.5).items():
        assert isinstance(failure, LinkError)
        assert f"{name} has no direct link with " in str(failure)
        assert "neither has a link address" in str(failure)
        assert "`links: auto` would relay" in str(failure)


def test_mode_direct_fails_where_nobody_listens(sites, monkeypatch):
    monkeypatch.setattr(outgoing, "_DIAL_SECONDS", 0.3)
    monkeypatch.setattr("flaremesh.links.carriers.direct.HEAD_START", 0.1)
    for name, other in BOTH:
        sites.add(name, [other], [other], mode="direct")
    failures = sites.open(dict.fromkeys("ab", ("127.0.0.1", 9)))
    for name, other in BOTH:
        cause = f"{name} has no direct link to {other}: Connection refused; `links: auto` would relay"
        assert cause in str(failures[name])


def test_a_broken_connection_is_made_again_and_nothing_is_lost(behind_proxy):
    sites, proxy = behind_proxy
    for k in range(10):
        proxy.cut()
        assert exchange(sites, BOTH, 10, numbered(7 * 10 ** (k % 6)), start=10 * k) == []
    assert proxy.connections > 5
    assert kinds(sites) == {LinkKind.DIRECT}
    for name, other in BOTH:
        assert not refused(sites.observers[name], other)


class Garbling(Proxy):
    """Keeps what passes, and changes some of it at times."""

    def __init__(self, address):
        self.seen, self.changed = bytearray(), 0
        super().__init__(address)

    def _pump(self, source, target):
        try:
            while data := source.recv(1 << 16):
                self.seen += data
                if len(self.seen) > 400_000 * (self.changed + 1) and self.changed < 5:
                    self.changed += 1
                    data = data[:-1] + bytes([data[-1] ^ 1])
                target.sendall(data)
        except OSError:
            pass
        finally:
            for each in (source, target):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()


def test_who_is_between_reads_nothing_and_breaks_connections_and_no_message(proxies, sites):
    for name, other in BOTH:
        sites.add(name, [other], [other], mode="direct")
    known = {}
    for name in sites.links:
        proxies.append(Garbling(sites.links[name].address))
        known[name] = proxies[-1].address
    assert not any(sites.open(known).values())
    marker = numbered(70_000)("a", 0)[:28]
    assert exchange(sites, BOTH, 40, numbered(70_000)) == []
    assert sum(proxy.changed for proxy in proxies) == 5
    assert sum(proxy.connections for proxy in proxies) > 5
    assert not any(marker in proxy.seen for proxy in proxies)


def test_an_edge_that_cannot_be_made_again_is_relayed_without_losing_an_iteration(behind_proxy, monkeypatch):
    monkeypatch.setattr(outgoing, "_DIAL_SECONDS", 0.5)
    sites, proxy = behind_proxy
    assert exchange(sites, BOTH, 10, numbered(70_000)) == []
    proxy.refuse()
    proxy.cut()
    assert exchange(sites, BOTH, 10, numbered(70_000), start=10) == []
    for name, other in BOTH:
        assert sites.observers[name].links == {other: LinkKind.RELAY}
        assert sites.observers[name].wanted == {other: LinkKind.DIRECT}
        assert sites.observers[name].changes == {(other, LinkKind.RELAY): 1}


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
        assert carried_by(sites, LinkKind.RELAY)

    return sites, proxy, go_over


def carried_by(sites, kind):
    """Whether both ends come to be carried by ``kind``."""
    return all(
        each.wait_for(lambda each=each: set(each.links.values()) == {kind})
        for each in sites.observers.values()
    )


def refused(observer, peer):
    """Why what a peer sent was refused; an attempt to connect that was cut off is nobody's."""
    return {reason for sender, reason in observer.refusals if sender == peer}


def test_an_edge_that_is_relayed_returns_to_the_direct_link_and_nothing_is_lost_or_doubled(returning):
    sites, proxy, go_over = returning
    a = sites.observers["a"]
    assert exchange(sites, BOTH, 5, numbered(70_000)) == []
    start = 5
    for _ in range(3):
        go_over()
        assert exchange(sites, BOTH, 5, numbered(70_000), start=start) == []
        proxy.passing.set()
        start += 5
        while a.links["b"] is LinkKind.RELAY:  # also in the middle of an exchange
            assert exchange(sites, BOTH, 5, numbered(70_000), start=start) == []
            start += 5
            assert start < 5000
        assert carried_by(sites, LinkKind.DIRECT)
    relayed = sites.relayed["a", "b"]
    assert exchange(sites, BOTH, 5, numbered(70_000), start=start) == []
    assert sites.relayed["a", "b"] - relayed < 70_000  # the end of a stream at most
    for name, other in BOTH:
        observer = sites.observers[name]
        assert observer.changes == {(other, LinkKind.RELAY): 3, (other, LinkKind.DIRECT): 3}
        assert observer.links == observer.wanted == {other: LinkKind.DIRECT}
        assert not refused(observer, other)
        assert observer.received_bytes[other] == 70_000 * (start + 5)


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
    for name, other in BOTH:
        assert not refused(sites.observers[name], other)


def test_what_the_relay_has_swallowed_comes_by_the_direct_link_that_is_made_again(returning):
    """Messages are the pair's, whatever was to carry them: a server that delivers nothing delays none."""
    sites, proxy, go_over = returning
    go_over()
    a, b = sites.links["a"], sites.links["b"]
    a.send("b", Key(0, 0, "a"), [b"0"])
    b.receive([Key(0, 0, "a")], 10)
    sites.losing = 10**6
    a.send("b", Key(1, 0, "a"), [b"1"])
    proxy.passing.set()
    assert bytes(b.receive([Key(1, 0, "a")], 20)[Key(1, 0, "a")]) == b"1"
    assert carried_by(sites, LinkKind.DIRECT)


def test_in_mode_direct_nothing_takes_the_relay_after_a_link_is_lost(proxies, sites, monkeypatch):
    monkeypatch.setattr(outgoing, "_DIAL_SECONDS", 0.5)
    sites.add("a", [], ["b"], mode="direct", listens=False)
    proxy = Proxy(sites.add("b", ["a"], [], mode="direct").address)
    proxies.append(proxy)
    assert not any(sites.open({"b": proxy.address}).values())
    proxy.refuse()
    proxy.cut()

    for name, other in BOTH:  # also the one that cannot dial
        lost = f"{name} lost its direct link to {other} and cannot make it again"
        with pytest.raises(EdgeLost, match=lost):
            sites.links[name].receive([Key(0, 0, other)], 20)
    with pytest.raises(EdgeLost, match="a lost its direct link to b"):
        sites.links["a"].send("b", Key(0, 0, "a"), [b"x"])
    assert not sites.relayed


def test_a_message_that_no_link_carries_is_refused_with_what_to_do(pair, monkeypatch):
    monkeypatch.setattr(link, "MAX_MESSAGE_BYTES", 10)
    pair.links["a"].send("b", Key(0, 0, "a"), [bytes(10)])
    with pytest.raises(LinkError, match=r"a has 11 bytes for b in iteration 2.*narrower `wire`"):
        pair.links["a"].send("b", Key(1, 0, "a"), [bytes(5), bytes(6)])


def wait_for_untaken(sites, count):
    """Until so many messages of a wait in the inbox of b."""
    inbox = sites.links["b"]._inbox
    with inbox._arrived:
        assert inbox._arrived.wait_for(lambda: inbox.waiting("a")[0] >= count, 20)


def test_a_receiver_with_a_full_inbox_keeps_its_connection(behind_proxy, monkeypatch):
    """What has no room there is not sent, so that the other direction and all acknowledgements go on."""
    monkeypatch.setattr(channel, "_GONE_MILLISECONDS", 1000)
    monkeypatch.setattr(inbox, "_EARLY_BYTES", 1 << 20)
    sites, proxy = behind_proxy
    for site in sites.links.values():
        site.expect(7_000_000)
    proxy.cut()  # the next connection has the timeout of this test
    assert proxy.carries(2)
    payload = numbered(7_000_000)
    for k in range(8):
        sites.links["a"].send("b", Key(k, 0, "a"), [payload("a", k)])
    wait_for_untaken(sites, 2)  # and no third one has room
    started = time.monotonic()
    assert exchange(sites, [("b", "a")], 7, numbered(7_000_000)) == []
    while time.monotonic() - started < 2:
        assert exchange(sites, [("b", "a")], 10, numbered(700), start=10 + int(1e6 * time.monotonic())) == []
    assert sites.links["b"]._inbox.waiting("a")[0] == 2
    for k in range(8):
        key = Key(k, 0, "a")
        assert bytes(sites.links["b"].receive([key], 20)[key]) == payload("a", k)
    assert proxy.connections == 2
    assert kinds(sites) == {LinkKind.DIRECT}


def test_a_receiver_that_does_not_know_its_messages_yet_is_not_taken_for_gone(sites, proxies, monkeypatch):
    """It takes in little before, so that a sender finds its connection at a standstill."""
    monkeypatch.setattr(channel, "_GONE_MILLISECONDS", 500)
    sites.add("a", ["b"], ["b"], listens=False)
    proxies.append(proxy := Proxy(sites.add("b", ["a"], ["a"]).address))
    assert not any(sites.open({"b": proxy.address}).values())
    payload = numbered(7_000_000)
    for k in range(8):
        sites.links["a"].send("b", Key(k, 0, "a"), [payload("a", k)])
    assert proxy.carries(4)
    for k in range(8):
        key = Key(k, 0, "a")
        assert bytes(sites.links["b"].receive([key], 20)[key]) == payload("a", k)
    assert kinds(sites) == {LinkKind.DIRECT}


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


def test_two_runs_at_once_take_two_ports_of_the_range():
    with closing(bind("127.0.0.1", (0, 0))) as probe:
        port = probe.getsockname()[1]
    with closing(bind("127.0.0.1", (port, port + 50))) as first:
        with closing(bind("127.0.0.1", (port, port + 50))) as second:
            taken = [each.getsockname()[1] for each in (first, second)]
            assert port <= taken[0] < taken[1] <= port + 50
        with pytest.raises(LinkError, match=f"port {taken[0]} is taken"):
            bind("127.0.0.1", (taken[0],) * 2)


def test_nothing_is_left_of_a_link_whose_port_is_taken(sites):
    port = sites.add("a", ["b"], ["b"]).address[1]
    with nothing_left(), pytest.raises(LinkError, match="taken"):
        sites.add("b", ["a"], ["a"], listens=(port, port))


@pytest.mark.parametrize("length", [7, 70_000])
def test_received_messages_stay_as_they_are_while_later_ones_arrive(pair, length):
    kept = []
    for k in range(20):
        pair.links["a"].send("b", Key(k, 0, "a"), [numbered(length)("a", k)])
        kept.append(pair.links["b"].receive([Key(k, 0, "a")], 5)[Key(k, 0, "a")])
    assert [bytes(data) for data in kept] == [numbered(length)("a", k) for k in range(20)]
