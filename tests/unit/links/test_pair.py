"""What two neighbours share goes on over one connection after another, whatever one of them does."""

import functools
import math
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import psutil
import pytest
from direct_mesh import edges_of, message
from neighbour import BOUND, RUN, Neighbour, data, joined, nothing_left, word

from flaremesh.links import Key, LinkClosed, LinkError, LinkKind, LinkRefused, PeerBehind, Refusal, life
from flaremesh.links import inbox as inbox_module
from flaremesh.links import link as link_module
from flaremesh.links.buffers import BufferPool
from flaremesh.links.channel import LARGE_BYTES
from flaremesh.links.frame import GREETING_BYTES, FrameError, Greeting, Kind, Word, unpack_greeting
from flaremesh.links.life import Tolerance
from flaremesh.links.pair import Pair
from flaremesh.waiting import wait_while

LARGE = LARGE_BYTES + 5
MIB = 1 << 20
TOLERANT = Tolerance(redial=30)


class Site:
    """One site, and its end of the one pair that it has."""

    def __init__(self, name, peer, sources=None, targets=None, **options):
        sources, targets = peer if sources is None else sources, peer if targets is None else targets
        self.name, self.peer = name, peer
        self.edges = edges_of(name, sources, targets, **options)
        self.edges.inbox.expect(8 * MIB)
        self.observer, self.inbox = self.edges.observer, self.edges.inbox
        self.pair = Pair(self.edges, peer)
        self._changed = threading.Condition()
        self.pair.on_change(self._notice)

    def _notice(self):
        with self._changed:
            self._changed.notify_all()

    def comes_to(self, condition, seconds=BOUND):
        """Whether ``condition()`` comes true; looked at whenever there is a connection, or none any more."""
        with self._changed:
            return self._changed.wait_for(condition, seconds)

    def loses_it(self):
        return self.comes_to(lambda: self.pair.kind is None)

    def send(self, *payloads, iteration=0):
        for k, payload in enumerate(payloads, iteration):
            self.pair.send(message(self.name, k, payload))

    def take(self, iteration, *, attend=True):
        """The message of an iteration; in the way of a run, which reads itself where it can."""
        key = Key(iteration, 0, self.peer)
        if attend:
            self.pair.attend(key)
        return bytes(self.inbox.take([key], BOUND)[key])

    def refused(self, reason, times=1):
        """Whether the neighbour comes to have been refused so often for ``reason``."""
        return self.observer.wait_for(lambda: self.observer.refusals[self.peer, reason] >= times)

    def close(self, *, orderly=False):
        self.pair.stop(orderly=orderly)
        self.pair.close()


def connect(leader, follower, kind=LinkKind.DIRECT):
    """A new connection between two sites, as their diallers make it."""
    near, far = socket.socketpair()
    leader.pair.adopt(near, kind, Greeting(Word.HELLO, follower.pair.received))
    said = unpack_greeting(Neighbour(far).read(GREETING_BYTES), RUN)
    follower.pair.adopt(far, kind, said)
    return near, far


def follow(site, far):
    """What the dialler of a site does that follows, when the other end may have hung up already."""
    try:
        said = unpack_greeting(Neighbour(far).read(GREETING_BYTES), RUN)
    except ConnectionError:
        far.close()
    else:
        site.pair.adopt(far, LinkKind.DIRECT, said)


def cut(*sockets):
    for each in sockets:
        with suppress(OSError):  # closed already
            each.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def make():
    made, held = [], []

    def make(name="b", peer="a", **options):
        made.append(Site(name, peer, **options))
        return made[-1]

    make.hold = lambda neighbour: held.append(neighbour) or neighbour
    yield make
    for site in made:
        site.close()
    for neighbour in held:
        neighbour.close()


@pytest.fixture
def site(make):
    """Site b, which follows."""
    return make()


@pytest.fixture
def join(make):
    return lambda site, *given, **options: make.hold(joined(site.pair, *given, **options))


@pytest.fixture
def neighbour(site, join):
    """a, whom the test plays."""
    return join(site)


@pytest.fixture
def both(make):
    return make("a", "b"), make("b", "a")


@contextmanager
def bounded(seconds):
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


# messages


@pytest.mark.parametrize("attend", [True, False])
@pytest.mark.parametrize("length", [0, 1, LARGE_BYTES - 1, LARGE_BYTES, 3 * MIB])
def test_messages_go_both_ways_over_one_connection(both, attend, length):
    a, b = both
    connect(a, b)
    for k in range(5):
        for site in both:
            site.send(site.name.encode() * length, iteration=k)
        assert b.take(k, attend=attend) == b"a" * length
        assert a.take(k, attend=attend) == b"b" * length


def test_acknowledgements_ride_on_messages(site, neighbour):
    neighbour.frames(lambda frame: frame.kind is Kind.ACK)  # of the new connection
    neighbour.send(data(1), data(2, iteration=1))
    site.take(1)
    site.send(b"answer")
    (answer,) = neighbour.frames(lambda frame: frame.kind is Kind.DATA)
    assert (answer.acknowledged, answer.taken) == (2, 1)


def test_what_was_sent_before_there_is_a_connection_goes_by_the_first(site, join):
    site.send(b"0", b"1")
    neighbour = join(site)
    assert [neighbour.message() for _ in range(2)] == [(1, b"0"), (2, b"1")]


def test_one_message_may_have_many_buffers(site, neighbour):
    site.pair.send(message("b", 0, b"x" * 10, b"", memoryview(b"y" * LARGE), b"z"))
    assert neighbour.message() == (1, b"x" * 10 + b"y" * LARGE + b"z")


def test_a_message_of_a_hundred_megabytes_is_no_obstacle_to_what_comes(site, neighbour):
    """Neither end reads all before it writes, or the other way round."""
    length = 100 * MIB
    site.edges.inbox.expect(length)
    site.pair.send(message("b", 0, bytes(length)))
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(neighbour.send, data(1, bytes(20 * MIB)))
        assert len(site.take(0)) == 20 * MIB
        sending.result(BOUND)
    assert neighbour.message() == (1, bytes(length))


# one connection after another


@pytest.mark.parametrize("length", [3, LARGE, MIB])
def test_nothing_is_lost_and_nothing_comes_twice_whenever_connections_break(both, length):
    a, b = both
    for k in range(12):
        ends = connect(a, b)
        for site in both:
            site.send(site.name.encode() * length, iteration=k)
        cut(*ends[: k % 3])
        if k % 3 == 0:
            assert a.take(k) == b"b" * length
            assert b.take(k) == b"a" * length
    connect(a, b)
    for k in (k for k in range(12) if k % 3):
        assert a.take(k) == b"b" * length
        assert b.take(k) == b"a" * length
    for site in both:
        assert not site.observer.refusals
        assert site.observer.received_bytes == {site.peer: 12 * length}


def test_a_broken_connection_is_told_and_the_next_goes_on_after_what_has_arrived(site, join):
    first = join(site)
    site.send(b"0", b"1", b"2")
    assert [first.message() for _ in range(3)] == [(1, b"0"), (2, b"1"), (3, b"2")]
    assert site.pair.broken is None
    first.close()
    assert site.loses_it()
    assert time.monotonic() - site.pair.broken < BOUND
    assert "its link broke" in site.pair.condition
    second = join(site, arrived=2, number=2)
    assert site.pair.kind is LinkKind.DIRECT
    assert site.pair.broken is None
    assert second.message() == (3, b"2")


@pytest.mark.parametrize("length", [3, LARGE])
def test_half_a_message_that_a_break_has_cut_comes_whole_by_the_next(site, join, length):
    first = join(site)
    first.send(data(1, bytes(length))[:-1])
    second = join(site, number=2)
    assert first.is_hung_up()
    second.send(data(1, bytes(length)))
    assert site.take(0) == bytes(length)


def test_a_new_connection_takes_the_place_of_the_one_before_which_is_hung_up(site, join):
    first, second = join(site), join(site, LinkKind.RELAY, number=2)
    assert first.is_hung_up()
    assert site.pair.kind is LinkKind.RELAY
    site.send(b"x")
    assert second.message() == (1, b"x")


def test_what_carries_an_edge_is_observed_at_each_end_of_it(make, join):
    source, target = make("b", "a", targets=""), make("c", "a", sources="")
    for site in (source, target):
        site.edges.wanted["a"] = LinkKind.DIRECT
        for number, kind in enumerate([LinkKind.DIRECT, LinkKind.RELAY, LinkKind.RELAY, LinkKind.DIRECT], 1):
            join(site, kind, number=number)
    assert target.observer.links == target.observer.wanted == {"a": LinkKind.DIRECT}
    assert not source.observer.links
    assert source.observer.changes == {("a", LinkKind.RELAY): 1, ("a", LinkKind.DIRECT): 1}
    assert not target.observer.changes


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_end_that_follows_takes_no_connection_that_counted_before_another(site, join, number):
    """What the one that leads says on it may come late."""
    join(site, number=1)
    second = join(site, number=2)
    late = join(site, number=number)
    assert late.is_hung_up()
    site.send(b"x")
    assert second.message() == (1, b"x")


def test_the_end_that_leads_keeps_a_better_connection_that_is_alive(make, join):
    site = make("a", "b")
    better = join(site)
    near, far = socket.socketpair()
    site.pair.adopt(near, LinkKind.RELAY, Greeting(Word.HELLO))
    with far:
        assert far.recv(1) == b""
    site.send(b"x")
    assert better.message() == (1, b"x")


def test_two_connections_that_are_made_at_once_leave_one_and_no_descriptor(both):
    """Both ends dial, and the two ends of the two connections come to their pairs in any order."""
    a, b = both
    connect(a, b)
    process = psutil.Process()
    descriptors = process.num_fds()
    for order in ((0, 1), (1, 0)) * 20:
        pairs = [socket.socketpair() for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            for near, _ in pairs:
                pool.submit(a.pair.adopt, near, LinkKind.DIRECT, Greeting(Word.HELLO, b.pair.received))
        for each in order:
            follow(b, pairs[each][1])
        assert b.comes_to(lambda: b.pair.kind is not None)
        assert a.pair.kind is b.pair.kind is LinkKind.DIRECT
    a.send(b"from a")
    b.send(b"from b")
    assert (a.take(0), b.take(0)) == (b"from b", b"from a")
    assert not wait_while(lambda: process.num_fds() - descriptors, BOUND, 0.01)


def test_connections_that_come_faster_than_the_thread_looks_are_all_closed(make, join, monkeypatch):
    with nothing_left():
        site, held = make("a", "b"), []
        with site.pair._io:  # where a run's thread reads
            pool = ThreadPoolExecutor(8)
            for _ in range(8):
                near, far = socket.socketpair()
                held.append(far)
                pool.submit(site.pair.adopt, near, LinkKind.DIRECT, Greeting(Word.HELLO))
        pool.shutdown()
        site.close()
        for far in held:
            while far.recv(4096):
                pass
            far.close()


def test_a_connection_that_is_reset_while_nothing_has_a_place_is_noticed(make, monkeypatch):
    monkeypatch.setattr(inbox_module, "_EARLY_MESSAGES", 1)
    site = make()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
    site.pair.adopt(near, LinkKind.DIRECT, Greeting(Word.ADOPT, 0, 1))
    with far:
        far.sendall(data(1) + data(2, iteration=1))
        assert not wait_while(lambda: not site.pair._said.inlet.has_no_place, BOUND, 0.01)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert site.loses_it()
    assert site.take(0) == b"x"


# how a connection is described


def test_a_pair_that_never_had_a_connection_has_nothing_to_say(site):
    assert site.pair.kind is site.pair.condition is site.pair.broken is None
    assert site.pair.heard == -math.inf


def test_a_link_that_is_up_is_told_from_a_process_that_has_stopped(make, join):
    strict, tolerant = make(), make(tolerance=TOLERANT)
    for site in (strict, tolerant):
        join(site)
    assert "slow, or waits itself" in strict.pair.condition
    assert "its process has stopped" in tolerant.pair.condition


# deadlocks


@pytest.mark.parametrize(("length", "count"), [(1, 400), (30_000, 32), (LARGE, 32)])
@pytest.mark.parametrize("breaks", [False, True])
def test_both_may_send_far_more_than_the_other_takes_before_either_reads(
    both, monkeypatch, length, count, breaks
):
    monkeypatch.setattr(inbox_module, "_EARLY_MESSAGES", 5)
    for site in both:
        site.inbox.longest = length
    a, b = both
    ends = connect(a, b)
    for k in range(count):
        for site in both:
            site.send(bytes([k % 256]) * length, iteration=k)
        if breaks and k % (count // 4) == 0:
            cut(*ends)
            ends = connect(a, b)
    for k in range(count):
        assert a.take(k) == b.take(k) == bytes([k % 256]) * length
    for site in both:
        assert not site.observer.refusals


def test_who_waits_for_room_at_each_other_gets_it(both, monkeypatch):
    monkeypatch.setattr(link_module, "MAX_UNTAKEN_MESSAGES", 17)
    monkeypatch.setattr(inbox_module, "_EARLY_MESSAGES", 10)
    connect(*both)
    for k in range(20):  # ten have room, of which up to seven are not acknowledged yet
        for site in both:
            assert not wait_while(functools.partial(is_behind, site, k), BOUND, 0.005)
    for k in range(20):
        assert both[0].take(k) == both[1].take(k) == b"%d" % k


def is_behind(site, k):
    try:
        site.send(b"%d" % k, iteration=k)
    except PeerBehind:
        return True
    return False


# attacks


def test_messages_beyond_its_room_wait_outside_and_take_no_memory(site, neighbour, monkeypatch):
    taken = []
    take = BufferPool.take
    monkeypatch.setattr(BufferPool, "take", lambda pool, length: taken.append(length) or take(pool, length))
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(neighbour.send, *(data(k + 1, bytes(8 * MIB), k) for k in range(12)))
        assert not wait_while(lambda: site.inbox.waiting("a")[0] < 8, BOUND, 0.01)
        assert not wait_while(lambda: not site.pair._said.inlet.has_no_place, BOUND, 0.01)
        assert taken == [8 * MIB] * 8
        assert site.inbox.waiting("a") == (8, 64 * MIB)
        for k in range(12):
            assert len(site.take(k)) == 8 * MIB
        sending.result(BOUND)
    assert not site.observer.refusals


@pytest.mark.parametrize(
    ("lie", "what"),
    [
        (word(Kind.ACK, 2), "has got what was never sent"),
        (word(Kind.ACK, 2**64 - 1), "has got all that there will ever be"),
        (data(1, acknowledged=2), "says so with a message"),
        (word(Kind.ALIVE, 2), "says so with a sign of life"),
        (word(Kind.END, 2), "says so at its end"),
        (word(Kind.ACK, 1, 2), "has taken what it has not got"),
        (word(Kind.ACK, 1) + word(Kind.ACK, 0), "has not got it any more"),
        (word(Kind.ACK, 1, 1) + word(Kind.ACK, 1, 0), "gives back what it took"),
    ],
)
def test_who_lies_about_what_it_has_got_ends_the_run_with_its_name(site, neighbour, lie, what):
    site.send(b"only one")
    neighbour.message()
    neighbour.send(lie)
    assert neighbour.is_hung_up()
    with pytest.raises(LinkRefused, match=r"b has no link to a: .*acknowledges what was never sent"):
        site.take(9)
    with pytest.raises(LinkRefused, match="a"):
        site.send(b"more")
    assert isinstance(site.pair.failure, LinkRefused)
    assert site.pair.is_over
    assert site.refused(Refusal.MALFORMED)


@pytest.mark.parametrize("is_joined", [True, False])
def test_who_greets_with_a_lie_does_not_end_the_connection_that_there_is(site, join, is_joined):
    neighbour = join(site) if is_joined else None
    site.send(b"x")
    with pytest.raises(FrameError):
        join(site, arrived=2, number=5)
    if not is_joined:
        assert site.pair.kind is None
        neighbour = join(site)
    assert neighbour.message() == (1, b"x")
    assert not site.pair.is_over


def test_a_flood_of_signs_is_cut_off_and_no_sign_of_life(make, join):
    site = make(tolerance=TOLERANT)
    neighbour = join(site)
    assert site.pair.heard > 0
    with ThreadPoolExecutor(1) as pool:
        pool.submit(neighbour.send, word(Kind.ALIVE) * 1000)  # it may be cut off while this is sent
        assert neighbour.is_hung_up()
    assert site.refused(Refusal.OVERLOAD)
    assert site.loses_it()
    assert site.pair.heard == -math.inf
    assert "refused as overload" in site.pair.condition
    assert site.pair.healing == -math.inf
    again = join(site, number=2)  # which changes nothing until it sends what it should
    again.send(word(Kind.ALIVE))
    assert again.is_hung_up()
    assert site.refused(Refusal.OVERLOAD, 2)
    last = join(site, number=3)
    last.send(data(1))
    assert site.take(0) == b"x"
    assert site.pair.heard > 0


@pytest.mark.parametrize("attend", [False, True])
@pytest.mark.parametrize(
    "nothing", [word(Kind.ACK), word(Kind.FLUSH), data(1, iteration=0)], ids=["ack", "flush", "replay"]
)
def test_a_neighbour_that_says_much_and_tells_nothing_takes_up_little_time_and_is_heard(
    make, join, nothing, attend
):
    site = make()
    neighbour = join(site)
    neighbour.send(data(1))
    assert site.take(0) == b"x"
    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(neighbour.send, nothing * 1000, data(2, b"something", 1))
        assert site.take(1, attend=attend) == b"something"
    # 64 of them each time, and then it waits for 50 ms
    assert time.monotonic() - started > 0.7


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (data(1, length=9 * MIB), Refusal.OVERSIZED),
        (data(1, length=2**64 - 1), Refusal.OVERSIZED),
        (data(2), Refusal.MALFORMED),
        (data(0), Refusal.MALFORMED),
        (b"\xff" * 48, Refusal.MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: somewhere.example.org\r\nAccept: */*\r\n\r\n", Refusal.MALFORMED),
    ],
)
@pytest.mark.parametrize("attend", [True, False])
def test_what_no_neighbour_sends_ends_the_connection_and_the_next_one_counts(
    site, join, content, reason, attend
):
    neighbour = join(site)
    neighbour.send(content)
    if attend:
        site.pair.attend(Key(0, 0, "a"))
    assert neighbour.is_hung_up()
    assert site.refused(reason)
    assert site.loses_it()
    assert f"refused as {reason}" in site.pair.condition
    assert site.pair.failure is None
    again = join(site, number=2)
    again.send(data(1))
    assert site.take(0) == b"x"
    assert site.observer.refusals == {("a", reason): 1}


def test_who_is_no_source_may_say_what_it_has_got_and_nothing_more(make, join):
    site = make(sources="")
    neighbour = join(site)
    site.send(b"x")
    neighbour.message()
    neighbour.send(word(Kind.ACK, 1, 1))
    assert not wait_while(lambda: not site.pair._said.outbox.is_empty, BOUND, 0.01)
    neighbour.send(data(1))
    assert neighbour.is_hung_up()
    assert site.refused(Refusal.STRANGER)


def test_who_gives_no_room_is_sent_no_more_than_there_was(site, neighbour, monkeypatch):
    """It says to have got all, and to have taken nothing."""
    for k in range(300):
        site.send(b"%d" % k, iteration=k)
    assert [neighbour.message()[0] for _ in range(256)] == list(range(1, 257))
    neighbour.send(word(Kind.ACK, 256))
    assert neighbour.hears_nothing()
    neighbour.send(word(Kind.ACK, 256, 1))
    assert neighbour.message() == (257, b"256")
    assert neighbour.hears_nothing()


def test_who_reads_nothing_is_kept_a_bound_for_and_named(site, neighbour):
    with bounded(10), pytest.raises(PeerBehind, match="a has not taken the last"):  # noqa: PT012  (which send fails is not known)
        for k in range(200):
            site.send(bytes(MIB), iteration=k)
    assert site.pair._said.outbox._bytes <= 8 * MIB


def test_who_trickles_a_message_is_no_obstacle_to_what_goes_out(site, neighbour):
    neighbour.send(data(1, bytes(LARGE))[:100])
    with ThreadPoolExecutor(1) as pool:
        attending = pool.submit(site.take, 0)
        for k in range(20):
            site.send(b"%d" % k, iteration=k)
            assert neighbour.message() == (k + 1, b"%d" % k)
        neighbour.send(data(1, bytes(LARGE))[100:])
        assert attending.result(BOUND) == bytes(LARGE)


# signs of life


def test_who_tolerates_gives_signs_as_long_as_its_run_goes_on(make, join, monkeypatch):
    monkeypatch.setattr(life, "SIGN_SECONDS", 0.05)
    aborted = threading.Event()
    site = make(tolerance=TOLERANT, inbox=inbox_module.Inbox(aborted.is_set))
    neighbour = join(site)
    for _ in range(3):
        neighbour.frames(lambda frame: frame.kind is Kind.ALIVE)
    aborted.set()
    assert neighbour.stays_without(Kind.ALIVE)


def test_whose_run_has_ended_gives_no_sign(make, join, monkeypatch):
    monkeypatch.setattr(life, "SIGN_SECONDS", 0.05)
    site = make(tolerance=TOLERANT)
    run = threading.Thread(target=lambda: None)
    run.start()
    run.join()
    site.inbox.reader = run
    neighbour = join(site)
    assert neighbour.stays_without(Kind.ALIVE)


def test_a_neighbour_that_gives_no_sign_is_silent_until_one_comes(make, join, monkeypatch):
    monkeypatch.setattr(life, "SILENT_SECONDS", 0.1)
    strict, tolerant = make(), make(tolerance=TOLERANT)
    neighbour = join(tolerant)
    join(strict)
    assert not wait_while(lambda: not tolerant.pair.is_silent, BOUND, 0.01)
    assert not strict.pair.is_silent
    neighbour.send(word(Kind.ALIVE))
    assert not wait_while(lambda: tolerant.pair.is_silent, BOUND, 0.001)


@pytest.mark.parametrize("frame", [word(Kind.ACK), word(Kind.FLUSH)])
def test_what_a_process_says_whose_run_has_ended_is_no_sign_of_life(make, join, frame):
    """Its threads still acknowledge, and take new connections."""
    site = make(tolerance=TOLERANT)
    neighbour = join(site)
    before = site.pair.heard
    neighbour.send(frame, word(Kind.FLUSH))
    neighbour.frames(lambda frame: frame.kind is Kind.ACK)
    again = join(site, number=2)
    again.send(frame, word(Kind.FLUSH))
    again.frames(lambda frame: frame.kind is Kind.ACK)
    assert site.pair.heard == before
    again.send(word(Kind.ALIVE))
    assert not wait_while(lambda: site.pair.heard == before, BOUND, 0.001)


def test_an_edge_that_was_cut_begins_its_time_anew_once_until_a_sign_comes(make, join):
    """Else whoever makes connections and breaks them, as a server can, would keep the dead alive."""
    site = make(tolerance=TOLERANT)
    known = []
    for number in (1, 2, 3):
        neighbour = join(site, number=number)
        known.append(site.pair.heard)
        if number == 2:
            neighbour.send(word(Kind.ALIVE))
            assert not wait_while(lambda: site.pair.heard == known[1], BOUND, 0.001)
        neighbour.close()
        assert site.loses_it()
    assert known[0] == known[1] < known[2]


def test_a_new_connection_begins_with_a_sign_of_life(make, join, monkeypatch):
    monkeypatch.setattr(life, "SIGN_SECONDS", 60)
    site = make(tolerance=TOLERANT)
    for number in (1, 2):
        neighbour = join(site, number=number)
        assert neighbour.frame()[0].kind is Kind.ALIVE
        neighbour.close()
        assert site.loses_it()


def test_a_large_message_that_trickles_in_is_a_sign_of_life(make, join):
    site = make(tolerance=TOLERANT)
    neighbour = join(site)
    content = data(1, bytes(8 * MIB))
    neighbour.send(content[:1000])
    assert not wait_while(lambda: not site.pair._said.inlet.is_filling, BOUND, 0.001)
    before = site.pair.heard
    neighbour.send(content[1000:2000])
    assert not wait_while(lambda: site.pair.heard == before, BOUND, 0.001)


# the end


def test_a_flush_waits_until_all_is_acknowledged_and_asks_for_that(site, neighbour):
    site.send(b"0", b"1")
    with ThreadPoolExecutor(1) as pool:
        flushing = pool.submit(site.pair.flush, time.monotonic() + BOUND, lambda: False)
        neighbour.frames(lambda frame: frame.kind is Kind.FLUSH)
        neighbour.send(word(Kind.ACK, 1))
        assert not flushing.done()
        neighbour.send(word(Kind.ACK, 2))
        flushing.result(BOUND)


def test_a_flush_asks_again_on_the_next_connection(site, join):
    first = join(site)
    site.send(b"0")
    with ThreadPoolExecutor(1) as pool:
        flushing = pool.submit(site.pair.flush, time.monotonic() + BOUND, lambda: False)
        first.frames(lambda frame: frame.kind is Kind.FLUSH)
        second = join(site, number=2)
        heard = second.frames(lambda frame: frame.kind is Kind.FLUSH)
        assert [frame.kind for frame in heard if frame.kind in (Kind.DATA, Kind.FLUSH)] == [
            Kind.DATA,
            Kind.FLUSH,
        ]
        second.send(word(Kind.ACK, 1))
        flushing.result(BOUND)


def test_who_is_asked_says_at_once_what_has_arrived(site, neighbour):
    for number in (1, 2):
        neighbour.send(data(number, iteration=number), word(Kind.FLUSH))
        heard = neighbour.frames(lambda frame, number=number: frame.acknowledged == number)
        assert heard[-1][:4] == (Kind.ACK, 0, number, number - 1)
        site.take(number)


@pytest.mark.parametrize("how", ["time", "abort"])
def test_a_flush_ends_with_its_time_and_with_the_run(site, neighbour, how):
    site.send(b"0")
    started = time.monotonic()
    if how == "time":
        site.pair.flush(started + 0.3, lambda: False)
        assert time.monotonic() - started >= 0.3
    else:
        site.pair.flush(started + BOUND, lambda: time.monotonic() > started + 0.3)
    assert time.monotonic() - started < 5


def test_an_orderly_end_is_told_after_all_that_was_sent(site, neighbour):
    site.send(b"x", bytes(LARGE))
    with ThreadPoolExecutor(1) as pool:
        flushing = pool.submit(site.pair.flush, time.monotonic() + BOUND, lambda: False)
        pool.submit(site.close, orderly=True)
        assert [neighbour.message()[0] for _ in range(2)] == [1, 2]
        assert not flushing.done()
        neighbour.send(word(Kind.ACK, 2))
        neighbour.frames(lambda frame: frame.kind is Kind.END)
        assert neighbour.is_hung_up()
        neighbour.close()


def test_an_end_that_is_not_orderly_says_nothing(site, neighbour):
    site.close()
    with pytest.raises(ConnectionError):
        neighbour.frames(lambda frame: frame.kind is Kind.END)


def test_who_has_ended_in_order_is_sent_nothing_and_not_waited_for(site, neighbour):
    site.send(b"x")
    neighbour.send(data(1, b"last"), word(Kind.END))
    assert neighbour.is_hung_up()
    assert site.comes_to(lambda: site.pair.is_over)
    assert site.pair.failure is site.pair.broken is None
    for k in range(2000):  # none of which is kept
        site.send(bytes(MIB), iteration=k)
    with bounded(1):
        site.pair.flush(time.monotonic() + BOUND, lambda: False)
    assert site.take(0) == b"last"


def test_ends_that_come_at_once_do_not_wait_for_each_other(both):
    connect(*both)
    for site in both:
        site.send(b"last")
    assert {site.take(0) for site in both} == {b"last"}
    with bounded(0.9), ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda site: site.close(orderly=True), both))


def test_a_neighbour_that_reads_nothing_holds_the_end_up_for_a_moment_only(site, neighbour):
    for k in range(4):
        site.send(bytes(8 * MIB), iteration=k)
    with bounded(4):
        site.pair.flush(time.monotonic() + 0.2, lambda: False)
        site.close(orderly=True)


def test_nor_does_one_that_reads_a_little_now_and_then(site, neighbour, monkeypatch):
    site.send(bytes(8 * MIB))
    over = threading.Event()

    def trickle():
        while not over.wait(0.1):
            neighbour.connection.recv(1 << 16)

    with ThreadPoolExecutor(1) as pool:
        trickling = pool.submit(trickle)
        with bounded(4):
            site.close(orderly=True)
        over.set()
        trickling.result(BOUND)


@pytest.mark.parametrize("orderly", [True, False])
@pytest.mark.parametrize("state", ["none", "up", "broken", "full", "within a message"])
def test_nothing_is_left_of_a_pair(state, orderly):
    with nothing_left():
        site = Site("b", "a")
        neighbour = None if state == "none" else joined(site.pair)
        if state == "broken":
            neighbour.close()
            assert site.loses_it()
        elif state == "full":
            site.send(bytes(8 * MIB))
        elif state == "within a message":
            neighbour.send(data(1, bytes(LARGE))[:-1])
        with bounded(4):
            site.close(orderly=orderly)
        if neighbour is not None:
            neighbour.close()


def test_a_connection_that_comes_after_the_end_is_closed(make):
    with nothing_left():
        site = make()
        for end in (lambda: site.pair.give_up(LinkError("over")), lambda: site.pair.stop(orderly=False)):
            end()
            near, far = socket.socketpair()
            site.pair.adopt(near, LinkKind.DIRECT, Greeting(Word.ADOPT, 0, 9))
            with far:
                assert far.recv(1) == b""
        site.close()


def test_who_gives_up_says_why_and_keeps_to_that(site, neighbour):
    site.pair.give_up(LinkError("first"))
    site.pair.give_up(LinkError("second"))
    with pytest.raises(LinkError, match="first"):
        site.send(b"x")
    with pytest.raises(LinkError, match="first"):
        site.take(0)
    assert site.comes_to(lambda: site.pair.is_over)


def test_who_reads_while_the_end_comes_is_not_disturbed(site, neighbour):
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(site.take, 0)
        site.close()
        site.inbox.close()
        with pytest.raises(LinkClosed):
            reading.result(BOUND)
