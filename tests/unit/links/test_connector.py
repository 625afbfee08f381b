"""Who dials, by what, how long, and when again; over carriers of which a newcomer might write one."""

import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest
from neighbour import BOUND, joined, nothing_left
from newcomer import RUN, Patched

from flaremesh.links import (
    EdgeLost,
    Key,
    LinkError,
    LinkKind,
    LinkRefused,
    PeerTimeout,
    Refusal,
    connector,
    life,
)
from flaremesh.links.greeting import refusing
from flaremesh.links.life import Tolerance

DIRECT, MET, RELAY = LinkKind.DIRECT, LinkKind.MET, LinkKind.RELAY


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(connector, "_DIAL_SECONDS", 0.4)
    monkeypatch.setattr(connector, "_ATTEMPT_SECONDS", 0.3)


@pytest.fixture
def patched():
    patched = Patched()
    yield patched
    patched.close(patience=0)


@pytest.fixture
def connect():
    """Let a site dial a peer by a connector of the test's."""
    made = []

    def connect(site, peer):
        made.append(each := site.connector(peer))
        each.start()
        site.pairs[peer].on_change(each.notice)
        return each

    yield connect
    for each in made:
        each.close()


@contextmanager
def bounded(least, most):
    started = time.monotonic()
    yield
    assert least <= time.monotonic() - started < most


def failure_of(site, peer, seconds=BOUND):
    """Why the pair is given up, in the end."""
    try:
        site.inbox.take([Key(0, 0, peer)], seconds)
    except LinkError as error:
        return error
    return None


def send_and_take(source, target):
    source.link.send(target.edges.site, Key(0, 0, source.edges.site), [b"x"])
    key = Key(0, 0, source.edges.site)
    assert target.link.receive([key], BOUND) == {key: b"x"}


# the first connection


def test_the_end_that_leads_dials_and_the_other_one_leaves_it_to_that(patched, connect):
    a, b = patched.both()
    for site, peer in ((b, "a"), (a, "b")):
        connect(site, peer)
    assert a.is_linked("b", DIRECT)
    assert b.is_linked("a", DIRECT)
    assert (a.carriers[0].dialled, b.carriers[0].dialled) == (1, 0)


def test_the_end_that_follows_dials_where_the_other_one_does_not(patched, connect):
    _, b = patched.both()
    with bounded(0.1, 5):
        connect(b, "a")
        assert b.is_linked("a", DIRECT)


def test_an_end_that_never_dials_waits_for_the_other_one(patched, connect):
    a, b = patched.add("a", "b", dials=False), patched.add("b", "a")
    connect(a, "b")
    assert failure_of(a, "b", 1) is not None  # nothing but that it does not come
    assert a.pairs["b"].failure is None
    connect(b, "a")
    assert a.is_linked("b", DIRECT)


def test_a_worse_carrier_joins_in_when_the_time_of_the_better_one_alone_is_over(patched, connect):
    a, _ = patched.both()
    direct, relay = a.carriers
    direct.is_up = False
    with bounded(connector._DIAL_SECONDS, 5):
        connect(a, "b")
        assert a.is_linked("b", RELAY)
    assert direct.dialled >= 3
    assert relay.dialled == 1


def test_a_carrier_that_joins_in_does_not_wait_for_those_that_do_not_answer(patched, connect):
    """An attempt at each of them takes its whole time, as where a firewall drops what comes."""
    a, _ = patched.both(DIRECT, MET, RELAY)
    begun = {DIRECT: [], MET: []}
    for carrier in a.carriers[:2]:

        def no_answer(_, timeout, times=begun[carrier.kind]):
            times.append(time.monotonic())
            threading.Event().wait(timeout)
            raise TimeoutError

        carrier.dial = no_answer
    joins = time.monotonic() + 2 * connector._DIAL_SECONDS
    connect(a, "b")
    assert a.is_linked("b", RELAY)
    for times in begun.values():  # they end the round that they are in
        assert len([at for at in times if at > joins]) <= 1


def test_who_dials_in_vain_pauses_longer_and_longer(patched, connect, monkeypatch):
    monkeypatch.setattr(connector, "_DIAL_SECONDS", 30)
    a = patched.add("a", "b")
    connect(a, "b")
    assert a.carriers[0].is_dialled(4)  # 0.05 + 0.1 + 0.2 seconds
    with bounded(0.3, 5):
        assert a.carriers[0].is_dialled(5)


def test_without_the_relay_an_edge_that_cannot_be_made_is_soon_given_up(patched, connect):
    a = patched.add("a", "b", DIRECT)
    with bounded(connector._DIAL_SECONDS, 5):
        each = connect(a, "b")
        cause = "a has no direct link to b: direct is down; `links: auto` would relay"
        assert str(failure_of(a, "b")) == cause
    assert each.cause == "direct is down"


def test_with_the_relay_whoever_opens_the_link_says_for_how_long(patched, connect):
    a = patched.add("a", "b")
    connect(a, "b")
    assert a.carriers[1].is_dialled(3)
    assert isinstance(failure_of(a, "b", 0), PeerTimeout)
    assert a.pairs["b"].failure is None


def test_a_refusal_ends_it_at_once(patched, connect):
    a = patched.add("a", "b")
    patched.add("b", "c")
    with bounded(0, 0.4):
        connect(a, "b")
        error = failure_of(a, "b")
    assert isinstance(error, LinkRefused)
    assert "a has no link to b: it refuses this site: stranger" in str(error)
    assert a.carriers[0].dialled == 1


@pytest.mark.parametrize("name", ["a", "c"])
def test_a_refusal_is_heard_although_the_other_end_has_hung_up_before_this_one_spoke(patched, connect, name):
    """Whether this end leads or follows."""
    site = patched.add(name, "b")
    direct = site.carriers[0]

    def refused(*_):
        near, far = socket.socketpair()
        with far:
            far.sendall(refusing(Refusal.STRANGER, RUN))
        return near

    direct.dial = refused
    connect(site, "b")
    error = failure_of(site, "b")
    assert isinstance(error, LinkRefused)
    assert "it refuses this site: stranger" in str(error)


# a connection that breaks


def test_a_connection_that_breaks_is_made_again_at_once(patched, connect):
    a, b = patched.both()
    connect(a, "b")
    assert b.is_linked("a", DIRECT)
    with bounded(0, connector._DIAL_SECONDS):
        a.carriers[0].cut()
        assert a.carriers[0].is_dialled(2)
    connect(b, "a")
    send_and_take(a, b)
    send_and_take(b, a)


@pytest.mark.parametrize(("tolerance", "least"), [(None, 0.4), (Tolerance(redial=1.5), 1.5)])
def test_an_edge_that_is_cut_is_dialled_for_so_long_and_lost_then(patched, connect, tolerance, least):
    a, b = patched.both(DIRECT, tolerance=tolerance)
    connect(a, "b")
    assert b.is_linked("a", DIRECT)
    direct = a.carriers[0]

    def no_answer(*_):
        raise TimeoutError

    direct.dial = no_answer
    with bounded(least, least + 4):
        direct.cut()
        error = failure_of(a, "b")
    assert isinstance(error, EdgeLost)
    assert "a lost its direct link to b and cannot make it again: no answer in time" in str(error)


@pytest.mark.parametrize("kinds", [(DIRECT,), (DIRECT, RELAY)])
def test_a_host_that_refuses_is_soon_lost_where_no_other_way_leads_to_the_peer(patched, connect, kinds):
    """An edge that is cut answers nothing: its process is gone."""
    a, b = patched.both(*kinds, tolerance=Tolerance(redial=60))
    connect(a, "b")
    assert b.is_linked("a", DIRECT)
    for other in a.carriers[1:]:
        other.is_up = False
    with bounded(0.4, 5):
        a.carriers[0].cut(for_good=True)
        assert isinstance(failure_of(a, "b"), EdgeLost)


def silence(site):
    def no_answer(*_):
        raise TimeoutError

    for carrier in site.carriers:
        carrier.dial = no_answer


@pytest.mark.parametrize("ends", [(DIRECT, RELAY), (DIRECT, MET, RELAY)])
def test_a_peer_that_hangs_up_and_comes_by_no_other_way_is_gone(patched, connect, ends):
    """As one whose host vanishes with its process: its address answers nothing, nor refuses."""
    a, b = patched.both(*ends, tolerance=Tolerance(redial=60))
    connect(a, "b")
    assert b.is_linked("a", DIRECT)
    silence(a)
    with bounded(len(ends) * connector._DIAL_SECONDS, 5):
        a.carriers[0].cut()
        assert isinstance(failure_of(a, "b"), EdgeLost)


def test_a_peer_whose_connection_ends_in_silence_is_waited_for(patched, connect):
    a, b = patched.both(tolerance=Tolerance(redial=60))
    connect(a, "b")
    assert b.is_linked("a", DIRECT)
    silence(a)
    pair = a.pairs["b"]
    pair._fail(pair._channel, TimeoutError())
    assert isinstance(failure_of(a, "b", 4 * connector._DIAL_SECONDS), PeerTimeout)
    assert pair.failure is None


def test_a_peer_whose_host_refuses_is_not_lost_as_long_as_another_way_leads_to_it(patched, connect):
    a, b = patched.both(tolerance=Tolerance(redial=60))
    connect(a, "b")
    assert b.is_linked("a", DIRECT)
    a.carriers[0].cut(for_good=True)
    assert a.is_linked("b", RELAY)
    send_and_take(a, b)


def test_an_end_that_does_not_dial_gives_the_other_one_its_time(patched, connect):
    a, b = patched.add("a", "b", DIRECT), patched.add("b", "a", DIRECT, dials=False)
    connect(a, "b")
    connect(b, "a")
    assert b.is_linked("a", DIRECT)
    with bounded(2 * connector._DIAL_SECONDS, 5):
        a.carriers[0].cut(for_good=True)
        error = failure_of(b, "a")
    assert "b lost its direct link to a and cannot make it again: it has not dialled" in str(error)


def test_a_neighbour_that_ends_every_connection_is_dialled_less_and_less(patched, connect, monkeypatch):
    a, b = patched.both(DIRECT, tolerance=Tolerance(redial=30))
    adopt = b.pairs["a"].adopt

    def adopt_and_end(connection, *given):
        adopt(connection, *given)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    monkeypatch.setattr(b.pairs["a"], "adopt", adopt_and_end)
    connect(a, "b")
    assert a.carriers[0].is_dialled(5)
    with bounded(0.3, 10):
        assert a.carriers[0].is_dialled(7)


def test_who_dials_in_vain_gives_up_no_connection_that_the_other_end_has_made(patched, connect, monkeypatch):
    a, _ = patched.both(DIRECT)
    direct, made = a.carriers[0], []

    def fail_late(*_):
        if not made:
            monkeypatch.setattr(connector, "_DIAL_SECONDS", 0.0)  # its time is over
            made.append(joined(a.pairs["b"]))
        raise TimeoutError

    direct.dial = fail_late
    connect(a, "b")
    assert a.is_linked("b", DIRECT)
    assert isinstance(failure_of(a, "b", 0.5), PeerTimeout)
    assert a.pairs["b"].failure is None
    made[0].close()


# a better one, and a silent one


def relayed(patched, connect, **options):
    """Two sites that the relay carries, because the direct carrier is down."""
    a, b = patched.both(**options)
    for site, peer in ((a, "b"), (b, "a")):
        site.carriers[0].is_up = False
        connect(site, peer)
    assert a.is_linked("b", RELAY)
    assert b.is_linked("a", RELAY)
    return a, b


def test_a_better_carrier_is_tried_now_and_then_until_it_carries_again(patched, connect, monkeypatch):
    monkeypatch.setattr(connector, "_RETURN_SECONDS", 0.1)
    monkeypatch.setattr(connector, "_RETURN_SECONDS_MAX", 0.2)
    a, b = relayed(patched, connect)
    dialled = a.carriers[0].dialled
    assert a.carriers[0].is_dialled(dialled + 2)
    assert a.observer.links == {"b": RELAY}
    a.carriers[0].is_up = True
    assert a.is_linked("b", DIRECT)
    assert b.is_linked("a", DIRECT)
    send_and_take(a, b)
    dialled = a.carriers[0].dialled
    assert not a.carriers[0].is_dialled(dialled + 1, 0.5)


def test_the_pauses_before_it_is_tried_grow(patched, connect, monkeypatch):
    monkeypatch.setattr(connector, "_RETURN_SECONDS", 0.1)
    a, _ = relayed(patched, connect)
    dialled = a.carriers[0].dialled
    assert a.carriers[0].is_dialled(dialled + 3)  # after 0.1, 0.2 and 0.4 seconds
    with bounded(0.5, 10):
        assert a.carriers[0].is_dialled(dialled + 4)


def test_the_end_that_leads_returns_before_the_other_one_tries(patched, connect, monkeypatch):
    monkeypatch.setattr(connector, "_RETURN_SECONDS", 0.3)
    a, b = relayed(patched, connect)
    dialled = b.carriers[0].dialled
    for site in (a, b):
        site.carriers[0].is_up = True
    assert b.is_linked("a", DIRECT)
    assert b.carriers[0].dialled == dialled


def test_a_better_carrier_that_refuses_is_not_tried_again(patched, connect, monkeypatch):
    monkeypatch.setattr(connector, "_RETURN_SECONDS", 0.05)
    monkeypatch.setattr(connector, "_RETURN_SECONDS_MAX", 0.05)
    a, b = relayed(patched, connect)
    stranger = patched.add("z", "y")
    patched.exchange["b"] = stranger.reception  # who answers where b is dialled is somebody else
    a.carriers[0].is_up = True
    dialled = a.carriers[0].dialled
    assert a.carriers[0].is_dialled(dialled + 1)
    assert not a.carriers[0].is_dialled(dialled + 3, 0.5)
    assert a.pairs["b"].failure is None
    send_and_take(a, b)


def test_a_silent_connection_is_dialled_beside_and_replaced(patched, connect, monkeypatch):
    monkeypatch.setattr(life, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(life, "SIGN_SECONDS", 30)
    a, b = patched.both(DIRECT, tolerance=Tolerance(redial=30))
    connect(a, "b")
    assert b.is_linked("a", DIRECT)
    assert a.carriers[0].is_dialled(3)
    send_and_take(a, b)


def test_a_connection_is_left_alone_as_long_as_signs_come(patched, connect, monkeypatch):
    monkeypatch.setattr(life, "SILENT_SECONDS", 0.4)
    monkeypatch.setattr(life, "SIGN_SECONDS", 0.05)
    a, b = patched.both(DIRECT, tolerance=Tolerance(redial=30))
    connect(a, "b")
    assert b.is_linked("a", DIRECT)
    assert not a.carriers[0].is_dialled(2, 1)


# the end


@pytest.mark.parametrize("state", ["not started", "dialling", "pausing", "linked"])
def test_closing_ends_it_in_whatever_it_does(state, monkeypatch):
    if state == "pausing":
        monkeypatch.setattr(connector, "_BACKOFF_SECONDS", 60)
        monkeypatch.setattr(connector, "_BACKOFF_SECONDS_MAX", 60)
        monkeypatch.setattr(connector, "_DIAL_SECONDS", 60)
    with nothing_left():
        patched = Patched()
        a, _ = patched.both()
        each = a.connector("b")
        a.pairs["b"].on_change(each.notice)
        release = threading.Event()
        if state == "dialling":
            a.carriers[0].dial = lambda *_: release.wait(BOUND) and dialled_late(a, release)
        elif state == "pausing":
            a.carriers[0].is_up = False
        if state != "not started":
            each.start()
        if state == "linked":
            assert a.is_linked("b", DIRECT)
        elif state == "pausing":
            assert a.carriers[0].is_dialled(1)
        threading.Timer(0.1, release.set).start()
        with bounded(0, 3):
            each.close()
        assert a.carriers[1].dialled == 0  # none after the one that was under way
        patched.close(patience=0)


def dialled_late(site, release):
    assert release.is_set()
    return type(site.carriers[0]).dial(site.carriers[0], "b", 1)


def test_a_pair_that_is_over_is_not_dialled(patched, connect):
    a, _ = patched.both()
    a.pairs["b"].stop(orderly=False)
    connect(a, "b").close()
    assert a.carriers[0].dialled == 0


def test_a_connection_that_the_other_end_made_ends_the_dialling(patched, connect, monkeypatch):
    monkeypatch.setattr(connector, "_DIAL_SECONDS", 30)
    a, _ = patched.both()
    a.carriers[0].is_up = False
    connect(a, "b")
    assert a.carriers[0].is_dialled(2)
    with joined(a.pairs["b"]).connection:
        dialled = a.carriers[0].dialled
        assert not a.carriers[0].is_dialled(dialled + 2, 1.5)  # one may have been under way
