"""Who is alive and late is waited for in a run that goes on after a loss, and who is dead is not."""

import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress

import pytest
from direct_mesh import Proxy, Sites, exchange
from neighbour import greeted, word

from flaremesh.links import EdgeLost, Key, LinkKind, PeerTimeout, Refusal, life, link, send_in_time
from flaremesh.links import connector as outgoing
from flaremesh.links.carriers import stream
from flaremesh.links.carriers.stream import unpack
from flaremesh.links.frame import FrameError, Kind
from flaremesh.links.life import Tolerance
from flaremesh.waiting import wait_while

BOTH = [("a", "b"), ("b", "a")]
KEY = Key(0, 0, "b")
SILENCE = 1.0  # seconds without a sign of life, after which a peer is lost
LATE = 3 * SILENCE
TOLERANT = Tolerance(redial=30)


def quicken(set_attribute=setattr):
    """Give signs ten times as often as they are late."""
    set_attribute(life, "SIGN_SECONDS", SILENCE / 10)
    set_attribute(life, "SILENT_SECONDS", SILENCE / 2)
    set_attribute(life, "_LEAST_SECONDS", SILENCE / 40)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    quicken(monkeypatch.setattr)


def linked(sites, mode="direct", tolerance=TOLERANT, addresses=None):
    for name, other in BOTH:
        sites.add(name, [other], [other], mode=mode, tolerance=tolerance)
    assert not any(sites.open(addresses).values())
    return sites.links["a"], sites.links["b"]


@pytest.fixture
def behind_proxy(proxies, sites):
    """By direct links alone, with a proxy before each site."""
    for name, other in BOTH:
        address = sites.add(name, [other], [other], mode="direct", tolerance=TOLERANT).address
        proxies.append(Proxy(address))
    assert not any(sites.open({"a": proxies[-2].address, "b": proxies[-1].address}).values())
    return sites, proxies[-2:]


def later(seconds, sender):
    """Send the message that is waited for after some time, like a site with a slow gradient."""
    threading.Timer(seconds, sender.send, ("a", KEY, [b"late"])).start()


@pytest.mark.parametrize("mode", ["direct", "auto", "relay"])
def test_a_neighbour_that_is_late_is_waited_for_as_long_as_it_is_alive(sites, mode):
    a, b = linked(sites, mode)
    later(LATE, b)
    assert bytes(a.receive([KEY], SILENCE)[KEY]) == b"late"


@pytest.mark.parametrize("mode", ["direct", "auto", "relay"])
def test_a_run_that_ends_with_its_first_loss_waits_no_longer(sites, mode):
    a, _ = linked(sites, mode, tolerance=None)
    with pytest.raises(PeerTimeout):
        a.receive([KEY], SILENCE)


@pytest.mark.parametrize("mode", ["direct", "relay"])
def test_a_straggler_is_named_with_what_to_do(sites, mode):
    a, _ = linked(sites, mode, Tolerance(30, straggler=LATE))
    started = time.monotonic()
    with pytest.raises(PeerTimeout, match=r"b \(alive, .*straggler_timeout.*within 3"):
        a.receive([KEY], SILENCE)
    assert LATE <= time.monotonic() - started < 2 * LATE


@pytest.mark.parametrize("mode", ["direct", "relay"])
def test_a_site_whose_run_has_ended_without_a_word_gives_no_sign(sites, mode):
    a, b = linked(sites, mode, Tolerance(redial=SILENCE))
    sent = Key(0, 0, "a")
    a.send("b", sent, [b"x"])
    run = threading.Thread(target=b.receive, args=([sent], 10))
    run.start()
    run.join()
    with pytest.raises(PeerTimeout):
        a.receive([KEY], SILENCE)


def test_who_is_alive_but_behind_is_given_time_to_take_what_is_sent(sites, monkeypatch):
    monkeypatch.setattr(link, "MAX_UNTAKEN_MESSAGES", 8)
    monkeypatch.setattr(link, "_SMALL_BYTES", 0)
    a, b = linked(sites)
    b.expect(8)
    a.expect(8)
    keys = [Key(k, 0, "a") for k in range(600)]
    taking = threading.Timer(LATE, lambda: [b.receive([key], 5) for key in keys])
    taking.start()
    started = time.monotonic()
    for key in keys:
        send_in_time(a, "b", key, [bytes(8)], SILENCE)
    taking.join()
    assert time.monotonic() - started > LATE


# processes


def neighbour(credentials, address, pipe):
    """Site b in a process of its own, which computes and computes."""
    quicken()
    sites = Sites(None)
    sites.add("b", ["a"], ["a"], mode="direct", credentials=credentials, tolerance=TOLERANT)
    pipe.send(sites.links["b"].address)
    assert not any(sites.open({"a": address}).values())
    pipe.send("linked")
    pipe.recv()


@pytest.fixture
def process(sites, authority):
    """Site b in another process, linked with a."""
    sites.add("a", ["b"], ["b"], mode="direct", tolerance=TOLERANT)
    spawning = multiprocessing.get_context("spawn")
    pipe, far = spawning.Pipe()
    given = authority.issue("b"), sites.links["a"].address, far
    process = spawning.Process(target=neighbour, args=given)
    process.start()
    assert not any(sites.open({"b": pipe.recv()}).values())
    assert pipe.recv() == "linked"
    yield process
    process.kill()
    process.join()


def test_a_process_that_is_stopped_is_lost(sites, process):
    os.kill(process.pid, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(PeerTimeout, match=r"b \(its link is up, .* its process has stopped"):
        sites.links["a"].receive([KEY], SILENCE)
    assert time.monotonic() - started < 10


def test_a_process_that_is_killed_is_lost_although_its_edge_might_be_cut(sites, process, monkeypatch):
    monkeypatch.setattr(outgoing, "_DIAL_SECONDS", 0.5)
    process.kill()
    started = time.monotonic()
    with pytest.raises(EdgeLost, match="link to b"):
        sites.links["a"].receive([KEY], SILENCE)
    assert time.monotonic() - started < 10


# edges


def test_an_edge_that_is_cut_is_waited_for_and_loses_nothing(behind_proxy, monkeypatch):
    monkeypatch.setattr(outgoing, "_DIAL_SECONDS", 0.2)
    monkeypatch.setattr(outgoing, "_ATTEMPT_SECONDS", 0.2)
    sites, proxies = behind_proxy
    for k in range(2):
        for proxy in proxies:
            proxy.passing.clear()
            proxy.cut()
        b = sites.links["b"]
        threading.Timer(LATE, lambda: [proxy.passing.set() for proxy in proxies]).start()
        b.send("a", KEY._replace(iteration=10 * k, stage=1), [b"sent while it was cut"])
        sites.links["a"].receive([KEY._replace(iteration=10 * k, stage=1)], SILENCE)
        assert exchange(sites, BOTH, 10, lambda sender, k: b"%d" % k, start=10 * k) == []
    assert set(sites.observers["a"].links.values()) == {LinkKind.DIRECT}


def test_an_edge_that_is_never_healed_is_lost_in_the_end(sites, proxies, monkeypatch):
    monkeypatch.setattr(outgoing, "_DIAL_SECONDS", 0.2)
    monkeypatch.setattr(outgoing, "_ATTEMPT_SECONDS", 0.2)
    for name, other in BOTH:
        tolerance = Tolerance(redial=LATE)
        proxies.append(Proxy(sites.add(name, [other], [other], mode="direct", tolerance=tolerance).address))
    assert not any(sites.open({"a": proxies[0].address, "b": proxies[1].address}).values())
    for proxy in proxies:
        proxy.passing.clear()
        proxy.cut()
    with pytest.raises((EdgeLost, PeerTimeout), match=r"b"):
        sites.links["a"].receive([KEY], SILENCE)


def test_a_connection_that_a_router_has_forgotten_is_made_again(behind_proxy):
    sites, proxies = behind_proxy

    def made():
        return sum(proxy.connections for proxy in proxies)

    before = made()
    for proxy in proxies:
        proxy.forget()
    assert not wait_while(lambda: made() == before, 20, 0.01)  # by whichever end notices first
    assert exchange(sites, BOTH, 10, lambda sender, k: b"%d" % k) == []


def test_a_neighbour_that_dials_alone_is_waited_for_while_its_edge_is_cut(sites, proxies, monkeypatch):
    """The end that nobody could dial from has to know that the edge is cut, too."""
    monkeypatch.setattr(outgoing, "_DIAL_SECONDS", 0.2)
    monkeypatch.setattr(outgoing, "_ATTEMPT_SECONDS", 0.2)
    address = sites.add("a", ["b"], ["b"], mode="direct", tolerance=TOLERANT).address
    sites.add("b", ["a"], ["a"], mode="direct", tolerance=TOLERANT, listens=False)
    proxies.append(proxy := Proxy(address))
    assert not any(sites.open({"a": proxy.address}).values())
    proxy.passing.clear()
    proxy.cut()
    sites.links["b"].send("a", KEY, [b"sent while it was cut"])
    threading.Timer(LATE, proxy.passing.set).start()
    assert bytes(sites.links["a"].receive([KEY], SILENCE)[KEY]) == b"sent while it was cut"


@pytest.fixture
def unreached(sites):
    """(patience) -> two sites that had signs of each other by a server that nobody reaches any more."""

    def unreached(patience):
        a, b = linked(sites, "relay", Tolerance(redial=patience))
        assert not wait_while(lambda: a._pairs["b"].heard < 0, 10, 0.01)
        sites.losing = 10**6
        return a, b

    return unreached


def test_a_relayed_neighbour_is_waited_for_while_nobody_reaches_the_server(sites, unreached):
    a, b = unreached(patience=30)
    b.send("a", KEY, [b"sent meanwhile"])
    threading.Timer(LATE, setattr, (sites, "losing", 0)).start()
    assert bytes(a.receive([KEY], SILENCE)[KEY]) == b"sent meanwhile"


def test_when_the_patience_is_over_a_relayed_neighbour_is_lost(unreached):
    a, _ = unreached(patience=LATE)
    started = time.monotonic()
    with pytest.raises(PeerTimeout, match="b"):
        a.receive([KEY], SILENCE)
    assert LATE / 2 < time.monotonic() - started < 3 * LATE


def test_a_relayed_stream_that_the_server_has_forgotten_is_made_again(sites):
    a, b = linked(sites, "relay")
    forgotten = set(streams_of(sites, "b")) | set(streams_of(sites, "a"))
    assert forgotten
    for name in "ab":

        def deliver(sender, data, deliver=sites.delivering[name]):
            if unpack(data).stream not in forgotten:
                deliver(sender, data)

        sites.delivering[name] = deliver
    b.send("a", KEY, [b"sent meanwhile"])
    assert bytes(a.receive([KEY], SILENCE)[KEY]) == b"sent meanwhile"


def test_relayed_streams_that_broke_while_the_server_was_away_are_made_again(sites, unreached, monkeypatch):
    monkeypatch.setattr(stream, "_GONE_SECONDS", SILENCE / 2)
    a, b = unreached(patience=30)
    assert not wait_while(lambda: a._pairs["b"].kind is not None or b._pairs["a"].kind is not None, 20, 0.01)
    b.send("a", KEY, [b"sent meanwhile"])
    threading.Timer(LATE, setattr, (sites, "losing", 0)).start()
    assert bytes(a.receive([KEY], SILENCE)[KEY]) == b"sent meanwhile"


def streams_of(sites, name):
    """The streams that a site has with its only neighbour."""
    (carrier,) = sites.links[name]._carriers
    (streams,) = carrier._streams.values()
    return streams


def test_an_edge_that_went_over_to_the_relay_tells_there_that_its_site_lives(sites, proxies, monkeypatch):
    monkeypatch.setattr(outgoing, "_DIAL_SECONDS", 0.2)
    for name, other in BOTH:
        proxies.append(Proxy(sites.add(name, [other], [other], tolerance=TOLERANT).address))
    assert not any(sites.open({"a": proxies[0].address, "b": proxies[1].address}).values())
    for proxy in proxies:
        proxy.refuse()
        proxy.cut()
    later(2 * LATE, sites.links["b"])
    assert bytes(sites.links["a"].receive([KEY], 2 * SILENCE)[KEY]) == b"late"
    assert sites.observers["b"].links == {"a": LinkKind.RELAY}


# attacks


def test_a_flood_of_signs_is_cut_off(sites, authority):
    address = sites.add("b", ["m"], [], mode="direct", tolerance=TOLERANT).address
    b = sites.observers["b"]
    with greeted(address, authority.issue("m")) as neighbour:
        with suppress(OSError):  # it may be cut off while this is sent
            neighbour.send(word(Kind.ALIVE) * 1000)
        assert neighbour.is_hung_up()
        assert b.wait_for(lambda: b.refusals == {("m", Refusal.OVERLOAD): 1})
        assert sites.links["b"]._pairs["m"].heard < 0  # nor is it thought to be alive


def test_relayed_signs_that_the_server_repeats_are_no_signs(sites):
    """Its run has stopped, and the server would like it to seem alive."""
    posted = []
    a, _ = linked(sites, "relay", Tolerance(redial=SILENCE))
    deliver = sites.delivering["a"]

    def record(sender, data):
        posted.append(data)
        deliver(sender, data)

    sites.delivering["a"] = record
    assert not wait_while(lambda: len(posted) < 20, 10, 0.01)  # signs, and what acknowledges those of a
    sites.delivering["a"] = lambda *_: None
    before = a._pairs["b"].heard
    for data in posted:
        deliver("b", data)
    with pytest.raises(PeerTimeout):
        a.receive([KEY], SILENCE)
    assert a._pairs["b"].heard < before + SILENCE / 2


def test_signs_beyond_the_permitted_rate_are_refused():
    signs = life.Signs()

    def is_taken():
        try:
            signs.take()
        except FrameError:
            return False
        return True

    assert 50 < sum(is_taken() for _ in range(10_000)) < 500
