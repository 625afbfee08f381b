"""What every link promises, whatever carries its messages, and whatever happens to that below."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from direct_mesh import Proxy, exchange, in_parallel

from flaremesh.links import Key, LinkClosed, LinkError, LinkKind, PeerBehind, PeerTimeout, inbox, link
from flaremesh.links import connector as outgoing
from flaremesh.links.carriers import stream as relay
from flaremesh.links.inprocess import InProcessLink, inboxes

BOUND = 20  # seconds; reached only by a failure
LONGEST = 4 << 20  # bytes of a message
NAMES = "abc"


class InProcess:
    """The complete graph of sites a, b and c; nothing is below that could break or repeat."""

    def __init__(self):
        boxes = inboxes(NAMES)
        self.links = {name: InProcessLink(name, boxes) for name in NAMES}

    def interrupt(self):
        """Break what is under way; it heals by itself."""

    def repeat(self):
        """Let what is below bring messages more than once, from now on."""


class Relayed(InProcess):
    """The same graph through a server that loses what is under way."""

    def __init__(self, sites):
        self._sites, self.links = sites, sites.links
        for name in NAMES:
            others = [other for other in NAMES if other != name]
            sites.add(name, others, others, mode="relay")
        assert not any(sites.open(timeout=BOUND).values())

    def interrupt(self):
        self._sites.losing += 5

    def repeat(self):
        self._sites.repeating = True


class Direct(InProcess):
    """The same graph over connections that are cut, with or without the relay behind them."""

    def __init__(self, sites, proxies, mode):
        self._sites, self._proxies, self._mode, self.links = sites, proxies, mode, sites.links
        for name in NAMES:
            others = [other for other in NAMES if other != name]
            proxies.append(Proxy(sites.add(name, others, others, mode=mode).address))
        addresses = {name: proxy.address for name, proxy in zip(NAMES, proxies, strict=True)}
        assert not any(sites.open(addresses, timeout=BOUND).values())

    def interrupt(self):
        for proxy in self._proxies:
            proxy.cut()

    def repeat(self):
        """The relay behind repeats what was not acknowledged; connections by themselves repeat nothing."""
        if self._mode == "auto":
            for proxy in self._proxies:
                proxy.refuse()
        self.interrupt()


class Met(InProcess):
    """The same graph of sites that nobody can dial, through a meeting point to which connections are cut."""

    def __init__(self, sites, proxies, place):
        self._proxies, self.links = proxies, sites.links
        for name in NAMES:
            others = [other for other in NAMES if other != name]
            proxies.append(Proxy(place.address))
            meeting = place.meeting(name, proxies[-1].address)
            sites.add(name, others, others, mode="met", listens=False, meeting=meeting)
        assert not any(sites.open(timeout=BOUND).values())
        for name in NAMES:
            assert set(sites.observers[name].links.values()) == {LinkKind.MET}

    def interrupt(self):
        for proxy in self._proxies:
            proxy.cut()


@pytest.fixture(params=["direct", "met", "relay", "auto", "inprocess"])
def mesh(request, monkeypatch):
    monkeypatch.setattr(relay, "_RESEND_SECONDS", 0.05)
    monkeypatch.setattr(relay, "_RESEND_SECONDS_MAX", 0.2)
    if request.param == "inprocess":
        mesh = InProcess()
    elif request.param == "met":
        # the place outlasts the links, and the proxies outlast both
        place, proxies, sites = (request.getfixturevalue(name) for name in ("place", "proxies", "sites"))
        mesh = Met(sites, proxies, place)
    else:
        proxies, sites = (request.getfixturevalue(name) for name in ("proxies", "sites"))
        mesh = Relayed(sites) if request.param == "relay" else Direct(sites, proxies, request.param)
    for end in mesh.links.values():
        end.expect(LONGEST)
    return mesh


@contextmanager
def bounded(seconds=BOUND):
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def send(mesh, sender, receiver, key, *buffers):
    mesh.links[sender].send(receiver, key, buffers)


def received(mesh, receiver, key):
    return bytes(mesh.links[receiver].receive([key], BOUND)[key])


# what arrives


@pytest.mark.parametrize("length", [0, 1, 48, (1 << 15) - 1, 1 << 15, (3 << 20) + 5])
def test_a_message_of_any_length_arrives_with_the_same_bytes(mesh, length):
    message = (bytes(range(256)) * (length // 256 + 1))[:length]
    key = Key(0, 0, "a")
    send(mesh, "a", "b", key, message[: length // 3], memoryview(message)[length // 3 :])
    assert received(mesh, "b", key) == message


def test_what_has_come_is_taken_without_waiting_and_in_its_order(mesh):
    assert mesh.links["b"].arrived(["a"]) == {}
    keys = [Key(iteration, 0, "a") for iteration in range(3)]
    for key in keys:
        send(mesh, "a", "b", key, b"%d" % key.iteration)
    came: dict[Key, bytes] = {}
    with bounded():
        while len(came) < len(keys):
            came |= {key: bytes(payload) for key, payload in mesh.links["b"].arrived(["a"]).items()}
    assert list(came.items()) == [(key, b"%d" % key.iteration) for key in keys]


def test_the_sender_sees_what_has_not_been_taken(mesh):
    a, b = mesh.links["a"], mesh.links["b"]
    b.arrived(["a"])  # whoever takes so tells of each message at once
    assert a.lag("b") == 0
    key = Key(0, 0, "a")
    send(mesh, "a", "b", key, b"here")
    assert a.lag("b") == 1
    with bounded():
        while not b.arrived(["a"]):
            pass
        while a.lag("b"):
            pass


def test_both_directions_carry_at_once(mesh):
    pairs = [("a", "b"), ("b", "a")]
    assert exchange(mesh, pairs, 10, lambda sender, k: f"{sender}{k}".encode() * 20_000) == []


def test_neighbours_that_send_at_once_are_told_apart(mesh):
    assert exchange(mesh, [("a", "c"), ("b", "c")], 50, lambda sender, k: f"{sender}{k}".encode()) == []


def test_what_was_received_is_not_received_again(mesh):
    key, after = Key(0, 0, "a"), Key(1, 0, "a")
    send(mesh, "a", "b", key, b"once")
    send(mesh, "a", "b", after, b"after")
    assert received(mesh, "b", key) == b"once"
    assert received(mesh, "b", after) == b"after"
    with pytest.raises(PeerTimeout):
        mesh.links["b"].receive([key], 0)


@pytest.mark.parametrize("length", [1, 40_000])
def test_two_exchanges_of_one_iteration_are_told_apart_in_whatever_order_they_are_received(mesh, length):
    keys = [Key(k, stage, "a") for k in range(10) for stage in (0, 1)]
    for number, key in enumerate(keys):
        send(mesh, "a", "b", key, bytes([number]) * length)
    for first, second in zip(keys[1::2], keys[::2], strict=True):
        assert received(mesh, "b", first) == bytes([keys.index(first)]) * length
        assert received(mesh, "b", second) == bytes([keys.index(second)]) * length


def test_of_what_is_sent_in_parts_more_is_kept_than_of_as_many_messages(mesh):
    """All parts of a message count as one: eight of these may wait, and have as many bytes as 256 parts."""
    keys = [Key(0, 0, "a", part) for part in range(32)]
    for key in keys:
        send(mesh, "a", "b", key, bytes([key.part]) * (1 << 18))
    for key in reversed(keys):
        assert received(mesh, "b", key) == bytes([key.part]) * (1 << 18)


# what happens below


@pytest.mark.parametrize("length", [7, 40_000, 3 << 20])
def test_breaks_while_messages_travel_lose_nothing_and_change_nothing(mesh, length):
    for k in range(6):
        send(mesh, "a", "b", Key(k, 0, "a"), bytes([k]) * length)
        if k % 2 == 0:
            mesh.interrupt()
    for k in range(6):
        assert received(mesh, "b", Key(k, 0, "a")) == bytes([k]) * length


def test_an_exchange_goes_on_after_every_break(mesh):
    pairs = [(x, y) for x in NAMES for y in NAMES if x != y]
    for k in range(0, 15, 3):
        mesh.interrupt()
        assert exchange(mesh, pairs, 3, lambda sender, k: f"{sender}{k}".encode() * 20_000, start=k) == []


@pytest.mark.parametrize("length", [7, 33_000])
def test_what_comes_twice_below_is_received_once(mesh, monkeypatch, length):
    monkeypatch.setattr(outgoing, "_DIAL_SECONDS", 1.0)
    monkeypatch.setattr(relay, "_ACK_SECONDS", 0.01)
    for k in range(5):
        send(mesh, "a", "b", Key(k, 0, "a"), bytes([k]) * length)
    mesh.repeat()
    for k in range(5, 30):
        send(mesh, "a", "b", Key(k, 0, "a"), bytes([k]) * length)
    for k in range(30):
        assert received(mesh, "b", Key(k, 0, "a")) == bytes([k]) * length
    for k in range(30):
        with pytest.raises(PeerTimeout):
            mesh.links["b"].receive([Key(k, 0, "a")], 0)


# neighbours that are slow, silent or dead


def test_a_slow_neighbour_is_waited_for(mesh):
    key = Key(0, 0, "b")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(received, mesh, "a", key)
        send(mesh, "a", "b", Key(0, 0, "a"), b"question")
        assert received(mesh, "b", Key(0, 0, "a")) == b"question"
        assert not waiting.done()
        send(mesh, "b", "a", key, b"answer")
        assert waiting.result(BOUND) == b"answer"


def test_a_silent_neighbour_and_it_alone_is_named_at_the_deadline(mesh):
    for k in (8, 9):
        send(mesh, "b", "a", Key(k, 0, "b"), b"x")
    assert received(mesh, "a", Key(9, 0, "b")) == b"x"  # and so has come what was sent before
    with pytest.raises(PeerTimeout) as caught:
        mesh.links["a"].receive([Key(8, 0, "b"), Key(8, 0, "c")], 0.2)
    assert caught.value.peers == ["c"]
    assert caught.value.iteration == 8


def test_a_neighbour_that_died_is_named_in_time_and_the_others_are_heard(mesh):
    send(mesh, "c", "a", Key(0, 0, "c"), b"alive")
    mesh.links.pop("b").close(patience=0)
    assert received(mesh, "a", Key(0, 0, "c")) == b"alive"
    with bounded(), pytest.raises(LinkError, match=r"\bb\b") as caught:
        mesh.links["a"].receive([Key(0, 0, "b")], 0.5)
    assert "from c" not in str(caught.value)


def test_a_sender_that_runs_ahead_of_a_slow_receiver_loses_nothing(mesh):
    for k in range(300):
        send(mesh, "a", "b", Key(k, 0, "a"), b"%d" % k)
    assert [received(mesh, "b", Key(k, 0, "a")) for k in range(300)] == [b"%d" % k for k in range(300)]


@pytest.mark.parametrize("length", [1, 40_000])
def test_no_more_than_a_bound_is_kept_for_a_neighbour_that_takes_nothing(mesh, monkeypatch, length):
    monkeypatch.setattr(inbox, "_EARLY_MESSAGES", 20)
    monkeypatch.setattr(link, "MAX_UNTAKEN_MESSAGES", 20 if length == 1 else 1000)
    monkeypatch.setattr(link, "MAX_UNTAKEN_BYTES", 20 * 40_000)
    sent = 0
    with bounded(), pytest.raises(PeerBehind, match="b has not taken the last"):  # noqa: PT012  (which send fails is not known)
        for k in range(200):
            send(mesh, "a", "b", Key(k, 0, "a"), bytes([k]) * length)
            sent += 1
    assert 20 <= sent < 80
    assert [received(mesh, "b", Key(k, 0, "a")) for k in range(sent)] == [
        bytes([k]) * length for k in range(sent)
    ]


# what a neighbour may send


def test_a_second_message_under_a_name_is_dropped_before_and_after_the_first_was_taken(mesh):
    key, after = Key(0, 0, "a"), Key(1, 0, "a")
    for content in (b"first", b"second"):
        send(mesh, "a", "b", key, content)
    send(mesh, "a", "b", after, b"after")
    assert received(mesh, "b", after) == b"after"
    assert received(mesh, "b", key) == b"first"
    send(mesh, "a", "b", key, b"third")
    send(mesh, "a", "b", Key(2, 0, "a"), b"last")
    assert received(mesh, "b", Key(2, 0, "a")) == b"last"
    with pytest.raises(PeerTimeout):
        mesh.links["b"].receive([key], 0)


# the end


def test_a_site_that_closes_at_once_loses_nothing_that_it_sent(mesh):
    for k in range(20):
        send(mesh, "a", "b", Key(k, 0, "a"), b"%d" % k * 20_000)
    mesh.links.pop("a").close(patience=BOUND)
    assert [received(mesh, "b", Key(k, 0, "a")) for k in range(20)] == [b"%d" % k * 20_000 for k in range(20)]


@pytest.mark.parametrize("patience", [0, 0.2])
def test_messages_that_nobody_takes_do_not_hold_up_the_end(mesh, monkeypatch, patience):
    monkeypatch.setattr(inbox, "_EARLY_MESSAGES", 1)
    for k in range(7):
        send(mesh, "a", "b", Key(k, 0, "a"), bytes(1 << 20))
    with bounded(10):
        mesh.links["a"].close(patience=patience)


@pytest.mark.parametrize("patience", [0, BOUND])
def test_a_closed_link_says_that_it_is_closed(mesh, patience):
    send(mesh, "b", "a", Key(0, 0, "b"), b"x")
    assert received(mesh, "a", Key(0, 0, "b")) == b"x"
    mesh.links["a"].close(patience=patience)
    with pytest.raises(LinkClosed, match=r"\bb\b"):
        mesh.links["a"].receive([Key(1, 0, "b")], BOUND)
    with pytest.raises(LinkClosed, match=r"\bb\b"):
        send(mesh, "a", "b", Key(0, 0, "a"), b"x")


def test_whoever_waits_while_the_link_is_closed_is_told_so(mesh):
    with ThreadPoolExecutor(1) as pool, bounded():
        waiting = pool.submit(mesh.links["a"].receive, [Key(0, 0, "b")], 2 * BOUND)
        mesh.links["a"].close()
        with pytest.raises(LinkClosed):
            waiting.result(BOUND)


def test_closing_again_changes_nothing(mesh):
    mesh.links["a"].close()
    with bounded(1):
        mesh.links["a"].close()


def test_neighbours_that_end_at_once_do_not_wait_for_each_other(mesh):
    send(mesh, "a", "b", Key(0, 0, "a"), b"last")
    assert received(mesh, "b", Key(0, 0, "a")) == b"last"
    ends = {name: lambda name=name: mesh.links[name].close(patience=BOUND) for name in NAMES}
    with bounded(10):
        assert not any(in_parallel(ends).values())


def test_who_is_no_neighbour_is_sent_nothing(mesh):
    with pytest.raises(LinkError, match="a has no edge to mallory"):
        send(mesh, "a", "mallory", Key(0, 0, "a"), b"x")
