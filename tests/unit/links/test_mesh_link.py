"""How a link opens, chooses among carriers and ends, shown on carriers that a newcomer might write."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from neighbour import nothing_left
from newcomer import RUN, Patched

from flaremesh.links import (
    EdgeLost,
    Key,
    LinkClosed,
    LinkError,
    LinkKind,
    PeerTimeout,
    Refusal,
    RunAborted,
    connector,
)
from flaremesh.links.frame import Greeting, Word, pack_greeting
from flaremesh.links.inbox import Inbox
from flaremesh.links.life import Tolerance

BOUND = 20
DIRECT, RELAY = LinkKind.DIRECT, LinkKind.RELAY


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(connector, "_DIAL_SECONDS", 0.3)
    monkeypatch.setattr(connector, "_ATTEMPT_SECONDS", 0.3)
    monkeypatch.setattr(connector, "_RETURN_SECONDS", 0.1)
    monkeypatch.setattr(connector, "_RETURN_SECONDS_MAX", 0.1)


@pytest.fixture
def patched():
    patched = Patched()
    yield patched
    patched.close(patience=0)


@contextmanager
def bounded(seconds):
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def send(site, iteration, peer="b"):
    site.link.send(peer, Key(iteration, 0, site.edges.site), [b"%d" % iteration])


def received(site, *iterations, peer="a"):
    keys = [Key(k, 0, peer) for k in iterations]
    arrived = site.link.receive(keys, BOUND)
    return [bytes(arrived[key]) for key in keys]


# which carrier


def test_an_edge_goes_by_the_best_carrier(patched):
    a, b = patched.both()
    assert not any(patched.open().values())
    send(a, 0)
    assert received(b, 0) == [b"0"]
    direct, relay = a.carriers
    assert (direct.dialled, relay.dialled) == (1, 0)
    assert b.carriers[0].dialled == 0  # the end with the lesser name has a head start
    for site, peer in ((a, "b"), (b, "a")):
        assert site.observer.links == site.observer.wanted == {peer: DIRECT}


def test_whoever_the_best_carrier_does_not_carry_to_goes_by_the_next_and_that_is_no_fault(patched):
    a, b = (patched.add(x, y, unable={DIRECT: {y: "no way"}}) for x, y in ("ab", "ba"))
    with bounded(10):
        assert not any(patched.open().values())
    send(a, 0)
    assert received(b, 0) == [b"0"]
    assert a.observer.links == a.observer.wanted == {"b": RELAY}


def test_a_carrier_that_fails_is_a_fault_and_the_next_one_joins_in(patched):
    a, b = patched.both()
    for site in (a, b):
        site.carriers[0].is_up = False
    assert not any(patched.open().values())
    send(a, 0)
    assert received(b, 0) == [b"0"]
    assert a.observer.links == {"b": RELAY}
    assert a.observer.wanted == {"b": DIRECT}


def test_neighbours_are_carried_to_each_in_its_own_way(patched):
    a = patched.add("a", "bc", unable={DIRECT: {"c": "no way"}})
    patched.add("b", "a")
    patched.add("c", "a", unable={DIRECT: {"a": "no way"}})
    assert not any(patched.open().values())
    assert a.observer.links == a.observer.wanted == {"b": DIRECT, "c": RELAY}


def test_what_a_lost_carrier_did_not_deliver_arrives_once_by_the_next(patched):
    a, b = patched.both()
    assert not any(patched.open().values())
    for k in range(3):
        send(a, k)
    assert received(b, 0) == [b"0"]
    for site in (b, a):
        site.carriers[0].cut(for_good=True)
    for k in range(3, 6):
        send(a, k)
    assert received(b, *range(1, 6)) == [b"%d" % k for k in range(1, 6)]
    with pytest.raises(PeerTimeout):
        b.link.receive([Key(0, 0, "a")], 0)
    assert a.is_linked("b", RELAY)
    assert a.observer.wanted == {"b": DIRECT}
    assert set(b.observer.refusals) <= {("a", Refusal.HANDSHAKE)}  # where both have dialled the next one


def test_an_edge_that_a_better_carrier_has_again_goes_by_that(patched):
    a, b = patched.both()
    assert not any(patched.open().values())
    for site in (b, a):
        site.carriers[0].cut(for_good=True)
    assert a.is_linked("b", RELAY)
    assert b.is_linked("a", RELAY)
    for site in (a, b):
        site.carriers[0].is_up = True
    assert a.is_linked("b", DIRECT)
    assert b.is_linked("a", DIRECT)
    send(a, 0)
    assert received(b, 0) == [b"0"]
    assert b.observer.changes == {("a", RELAY): 1, ("a", DIRECT): 1}


# how it opens


def test_a_peer_that_no_carrier_reaches_is_named_with_the_cause(patched):
    causes = {DIRECT: {"b": "neither has an address"}, RELAY: {"b": "its kit does not let it"}}
    a = patched.add("a", "bc", unable=causes)
    with pytest.raises(LinkError) as caught:
        a.link.open({}, 1)
    assert "a has no direct or relay link with b: neither has an address; its kit does not let it" in str(
        caught.value
    )
    assert "with c" not in str(caught.value)
    assert a.carriers[0].dialled == 0


def test_a_site_without_any_carrier_says_so(patched):
    a = patched.add("a", "b")
    a.carriers.clear()
    with pytest.raises(LinkError, match="a has no direct link with b: it makes none"):
        a.link.open({}, 1)


def test_carriers_learn_the_addresses_of_neighbours_alone(patched):
    a, _ = patched.both()
    addresses = {name: (f"{name}.example.org", 8002) for name in "abz"}
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(a.link.open, addresses, BOUND)
        patched.sites["b"].link.open({}, BOUND)
        opening.result(BOUND)
    assert a.carriers[0].addresses == {"b": ("b.example.org", 8002)}


def test_peers_that_are_not_there_are_named(patched):
    a = patched.add("a", "bcd")
    patched.add("c", "a")
    failures = patched.open(timeout=0.7)
    assert isinstance(failures["a"], PeerTimeout)
    assert failures["a"].peers == ["b", "d"]
    assert "no sign of b, d within 0.7 s" in str(failures["a"])
    assert failures["c"] is None
    assert a.observer.links == {"c": DIRECT}


def test_an_abort_ends_the_opening(patched):
    aborted = threading.Event()
    a = patched.add("a", "b", inbox=Inbox(aborted.is_set))
    threading.Timer(0.2, aborted.set).start()
    with bounded(5), pytest.raises(RunAborted):
        a.link.open({}, BOUND)


def test_who_is_refused_does_not_wait_for_the_others(patched):
    """b knows nothing of a."""
    a = patched.add("a", "bc")
    patched.add("b", "c")
    with bounded(5), pytest.raises(LinkError, match=r"a has no link to b: it refuses this site: stranger"):
        a.link.open({}, BOUND)


# what is lost


def test_the_last_carrier_that_is_lost_ends_sending_and_receiving(patched):
    a, b = patched.both(DIRECT)
    assert not any(patched.open().values())
    for site in (b, a):
        site.carriers[0].cut(for_good=True)
    with pytest.raises(EdgeLost, match=r"a lost its direct link to b .*: direct is down"):
        a.link.receive([Key(0, 0, "b")], BOUND)
    with pytest.raises(EdgeLost, match=r"a lost its direct link to b"):
        send(a, 0)


def test_what_has_arrived_is_taken_although_its_edge_is_lost(patched):
    a, b = patched.both(DIRECT)
    assert not any(patched.open().values())
    send(a, 0)
    send(a, 1)
    assert received(b, 1) == [b"1"]
    for site in (b, a):
        site.carriers[0].cut(for_good=True)
    with pytest.raises(EdgeLost):
        received(b, 2)
    assert received(b, 0) == [b"0"]


@pytest.mark.parametrize(
    ("tolerance", "condition"),
    [(None, "it is slow, or waits itself"), (Tolerance(30, straggler=0.5), "straggler_timeout")],
)
def test_who_is_waited_for_in_vain_is_described(patched, monkeypatch, tolerance, condition):
    monkeypatch.setattr("flaremesh.links.life.SIGN_SECONDS", 0.05)
    monkeypatch.setattr("flaremesh.links.life.SILENT_SECONDS", 0.2)
    a, _ = patched.both(tolerance=tolerance)
    assert not any(patched.open().values())
    with pytest.raises(PeerTimeout, match=rf"b \(.*{condition}"):
        a.link.receive([Key(0, 0, "b")], 0.2)


@pytest.mark.parametrize("says_hello", [False, True])
def test_connections_that_die_between_their_greetings_cost_no_message(patched, says_hello):
    """The one that leads may take such a one for the one that counts."""
    a, b = patched.both()
    assert not any(patched.open().values())
    for k in range(5):
        for site, peer in ((a, "b"), (b, "a")):
            near, far = socket.socketpair()
            with far:
                site.reception.take(near, DIRECT, peer)
                if says_hello and site is a:
                    hello = Greeting(Word.HELLO, b.pairs["a"].received)
                    far.sendall(pack_greeting(hello, RUN))
        send(a, k)
        send(b, k, "a")
        assert received(b, k) == received(a, k, peer="b") == [b"%d" % k]
    for site, peer in ((a, "b"), (b, "a")):
        assert set(site.observer.refusals) <= {(peer, Refusal.HANDSHAKE)}
        assert site.is_linked(peer, DIRECT)


@pytest.mark.parametrize("length", [3, 100_000])
def test_connections_that_both_ends_make_at_once_lose_and_double_nothing(patched, monkeypatch, length):
    monkeypatch.setattr(connector, "_DIAL_SECONDS", 5.0)
    a, b = patched.both()
    for site in (a, b):
        for carrier in site.carriers:
            carrier.head_start = lambda peer, *, leads: 0.0
    assert not any(patched.open().values())
    for k in range(15):
        for site in (a, b)[:: (-1) ** k]:
            site.carriers[0].cut()
        for site, peer in ((a, "b"), (b, "a")):
            site.link.send(peer, Key(k, 0, site.edges.site), [bytes([k]) * length])
        assert received(b, k) == received(a, k, peer="b") == [bytes([k]) * length]
    for site, peer in ((a, "b"), (b, "a")):
        assert site.observer.received_bytes == {peer: 15 * length}
        assert set(site.observer.refusals) <= {(peer, Refusal.HANDSHAKE)}


# the end


def test_a_link_that_an_abort_has_closed_says_that_the_run_was_aborted(patched):
    a = patched.add("a", "b", inbox=Inbox(lambda: True))
    a.link.close(patience=0)
    for use in (lambda: send(a, 0), lambda: a.link.receive([Key(0, 0, "b")], BOUND)):
        with pytest.raises(RunAborted):
            use()


def test_carriers_are_closed_after_the_streams_that_they_made(patched):
    a, _ = patched.both()
    assert not any(patched.open().values())
    pair, open_then = a.pairs["b"], []
    close = a.carriers[0].close
    a.carriers[0].close = lambda: close() or open_then.append(pair.kind)
    a.link.close(patience=1)
    assert open_then == [None]
    assert a.carriers[1].is_closed


@pytest.mark.parametrize("patience", [0, 5])
@pytest.mark.parametrize("state", ["new", "opening", "linked", "cut", "relayed", "dialling"])
def test_nothing_is_left_of_a_link(state, patience):
    with nothing_left():
        patched = Patched()
        a, b = patched.both()
        if state in ("opening", "dialling"):
            for carrier in a.carriers + b.carriers:
                carrier.is_up = False
            with ThreadPoolExecutor(1) as pool:
                opening = pool.submit(a.link.open, {}, 1.0 if state == "opening" else 0.0)
                if state == "opening":
                    assert a.carriers[0].is_dialled(3)
                    patched.close(patience=patience)
                with pytest.raises(LinkError):
                    opening.result(BOUND)
        elif state != "new":
            assert not any(patched.open().values())
            send(a, 0)
            if state in ("cut", "relayed"):
                for site in (b, a):
                    site.carriers[0].cut(for_good=True)
            if state == "relayed":
                assert a.is_linked("b", RELAY)
        with bounded(7):
            patched.close(patience=patience)


def test_one_deadline_holds_for_all_neighbours_at_the_end(patched):
    a = patched.add("a", "bcd", DIRECT)
    for name in "bcd":
        patched.add(name, "a", DIRECT)
    assert not any(patched.open().values())
    for name in "bcd":
        patched.sites[name].pairs["a"]._io.acquire()  # stands still
    try:
        for name in "bcd":
            a.link.send(name, Key(0, 0, "a"), [b"x"])
        started = time.monotonic()
        a.link.close(patience=0.5)
        assert 0.5 <= time.monotonic() - started < 3
    finally:
        for name in "bcd":
            patched.sites[name].pairs["a"]._io.release()


def test_a_closed_link_takes_no_new_connection_and_no_message(patched):
    a, b = patched.both()
    assert not any(patched.open().values())
    a.link.close(patience=1)
    with pytest.raises(LinkClosed):
        send(a, 0)
    assert b.pairs["a"].is_over
    for k in range(2000):
        send(b, k, "a")  # kept by nobody
