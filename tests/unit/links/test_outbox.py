"""What waits for a peer is kept until acknowledged, and written while there is room, whatever breaks."""

import itertools
from collections import deque

import pytest
from direct_mesh import message
from hypothesis import given
from hypothesis import strategies as st

from flaremesh.links import PeerBehind, Refusal
from flaremesh.links import inbox as inbox_module
from flaremesh.links import link as link_module
from flaremesh.links.frame import FrameError
from flaremesh.links.outbox import Outbox

MIB = 1 << 20
_ITERATIONS = itertools.count()


@pytest.fixture
def outbox():
    return Outbox("b")


def add(outbox, *lengths):
    for length in lengths:
        outbox.add(message("a", next(_ITERATIONS), bytes(length)))


def written(outbox):
    """Write all that there is room for; returns the numbers."""
    return [due.sequence for due in iter(outbox.take_next, None)]


def refused(call, *given):
    with pytest.raises(FrameError) as caught:
        call(*given)
    assert caught.value.reason is Refusal.MALFORMED


# order, and what is kept


def test_messages_are_numbered_in_their_order_and_written_once(outbox):
    assert outbox.is_written
    assert outbox.is_empty
    kept = [message("a", k, b"%d" % k) for k in range(3)]
    for each in kept:
        outbox.add(each)
    assert not outbox.is_written
    assert [tuple(outbox.take_next()) for _ in range(3)] == list(enumerate(kept, 1))
    assert outbox.take_next() is None
    assert outbox.is_written
    assert not outbox.is_empty


def test_messages_are_kept_until_they_are_acknowledged(outbox):
    add(outbox, 1, 1, 1)
    written(outbox)
    assert outbox.learn(2, 0)
    assert not outbox.is_empty
    assert not outbox.learn(2, 0)
    assert outbox.learn(2, 2)
    assert outbox.learn(3, 2)
    assert outbox.is_empty


def test_the_buffers_of_what_is_acknowledged_are_let_go(outbox):
    buffer = bytearray(10)
    outbox.add(message("a", 0, memoryview(buffer)))
    written(outbox)
    with pytest.raises(BufferError):
        buffer.append(1)
    outbox.learn(1, 0)
    buffer.append(1)


# another connection


def test_a_new_connection_goes_on_after_what_the_peer_has(outbox):
    add(outbox, *[1] * 6)
    written(outbox)
    outbox.learn(2, 0)
    add(outbox, 1)
    outbox.restart(4)
    assert written(outbox) == [5, 6, 7]


def test_a_new_connection_does_not_repeat_what_was_acknowledged_while_it_was_made(outbox):
    add(outbox, 1, 1, 1)
    written(outbox)
    outbox.learn(2, 0)
    outbox.restart(1)
    assert written(outbox) == [3]


def test_a_new_connection_repeats_what_was_written_and_did_not_arrive(outbox):
    add(outbox, 1, 1)
    written(outbox)
    outbox.restart(0)
    assert written(outbox) == [1, 2]


def test_a_greeting_may_be_older_than_what_arrived_since(outbox):
    """By the connection before, which is used until the new one counts."""
    add(outbox, *[1] * 6)
    written(outbox)
    outbox.restart(1)
    assert outbox.take_next().sequence == 2
    assert outbox.learn(4, 0)
    assert written(outbox) == [5, 6]
    outbox.restart(1)
    assert written(outbox) == [5, 6]


def test_a_greeting_may_be_newer_than_that_of_the_connection_before(outbox):
    add(outbox, 1, 1, 1)
    written(outbox)
    outbox.restart(0)
    outbox.restart(2)
    assert written(outbox) == [3]


def test_what_arrived_since_the_greeting_takes_room_too(outbox, monkeypatch):
    monkeypatch.setattr(inbox_module, "_EARLY_MESSAGES", 3)
    add(outbox, *[MIB] * 6)
    assert written(outbox) == [1, 2, 3]
    outbox.restart(0)
    outbox.learn(3, 0)
    assert written(outbox) == []
    monkeypatch.setattr(inbox_module, "_EARLY_MESSAGES", 256)
    add(outbox, *[MIB] * 5)
    assert written(outbox) == [4, 5, 6, 7, 8]


# lies


@pytest.mark.parametrize("arrived", [3, 4, 2**64 - 1])
def test_nobody_has_what_was_never_written(outbox, arrived):
    add(outbox, 1, 1)
    written(outbox)
    add(outbox, 1)
    outbox.restart(2)
    refused(outbox.restart, arrived)
    refused(outbox.learn, arrived, 0)
    assert written(outbox) == [3]


@pytest.mark.parametrize(
    ("acknowledged", "taken"),
    [(2, 3), (2, 0), (1, 1), (0, 0)],
    ids=["takes what it has not got", "gives back what it took", "has got less", "has got nothing"],
)
def test_a_peer_that_contradicts_itself_is_refused(outbox, acknowledged, taken):
    add(outbox, 1, 1)
    written(outbox)
    outbox.learn(2, 1)
    refused(outbox.learn, acknowledged, taken)


# room at the peer


def test_no_more_is_written_than_the_peers_inbox_has_room_for(outbox, monkeypatch):
    monkeypatch.setattr(inbox_module, "_EARLY_MESSAGES", 3)
    add(outbox, *[1] * 8)
    assert written(outbox) == [1, 2, 3]
    outbox.learn(3, 0)
    assert written(outbox) == []
    outbox.learn(3, 2)
    assert written(outbox) == [4, 5]
    outbox.learn(5, 5)
    assert written(outbox) == [6, 7, 8]


def test_room_is_counted_in_bytes_too(outbox):
    add(outbox, *[MIB] * 8)
    assert written(outbox) == list(range(1, 9))
    outbox.learn(8, 0)
    add(outbox, *[MIB] * 3)
    assert written(outbox) == []
    outbox.learn(8, 2)
    assert written(outbox) == [9, 10]


@pytest.mark.parametrize("length", [0, 1, 1 << 30])
def test_one_message_always_has_room(outbox, monkeypatch, length):
    monkeypatch.setattr(inbox_module, "_EARLY_MESSAGES", 0)
    monkeypatch.setattr(inbox_module, "_EARLY_BYTES", 0)
    outbox.add(message("a", 0, b"")._replace(length=length))
    assert written(outbox) == [1]


def test_what_arrived_by_the_connection_before_still_takes_room(outbox, monkeypatch):
    monkeypatch.setattr(inbox_module, "_EARLY_MESSAGES", 3)
    add(outbox, *[1] * 6)
    written(outbox)
    outbox.restart(2)
    assert written(outbox) == [3]
    outbox.restart(3)
    assert written(outbox) == []
    outbox.learn(3, 1)
    assert written(outbox) == [4]


def test_no_more_is_kept_than_a_bound(outbox, monkeypatch):
    monkeypatch.setattr(link_module, "MAX_UNTAKEN_MESSAGES", 3)
    add(outbox, 1, 1, 1)
    with pytest.raises(PeerBehind, match="b has not taken the last 3 messages"):
        add(outbox, 1)
    assert written(outbox) == [1, 2, 3]
    outbox.learn(1, 0)
    add(outbox, 1)
    assert written(outbox) == [4]


def test_no_more_bytes_are_kept_than_a_bound(outbox):
    add(outbox, *[MIB] * 8)
    with pytest.raises(PeerBehind, match=r"the last 8 messages \(8,388,608 bytes\)"):
        add(outbox, MIB)


def test_all_parts_of_an_exchange_count_as_one_message(outbox):
    for iteration in range(8):
        for _ in range(4):
            outbox.add(message("a", iteration, bytes(MIB)))
    with pytest.raises(PeerBehind, match="the last 32 messages"):
        outbox.add(message("a", 8, bytes(MIB)))
    with pytest.raises(PeerBehind, match="the last 32 messages"):
        outbox.add(message("a", 8, bytes(MIB)))  # that it is tried again makes no room


# all together


class Peer:
    """An honest one: it keeps what arrives in order, and takes it in that order."""

    def __init__(self):
        self.arrived, self.taken = [], 0
        self.waiting = deque()  # their lengths
        self.under_way = deque()
        self.said = None  # in a greeting, on which nothing has followed yet

    def get(self, count):
        for _ in range(min(count, len(self.under_way))):
            sequence, (_, _, length) = self.under_way.popleft()
            if sequence > len(self.arrived):
                assert sequence == len(self.arrived) + 1
                self.arrived.append(length)
                self.waiting.append(length)

    def take(self, count):
        for _ in range(min(count, len(self.waiting))):
            self.waiting.popleft()
            self.taken += 1


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "write", "get", "take", "tell", "greet", "break"]), st.integers(1, 4))
)


@given(STEPS)
def test_every_message_arrives_once_in_order_and_within_the_room_whatever_breaks(steps):
    outbox, peer, sent = Outbox("b"), Peer(), []
    longest = MIB

    def write():
        while (due := outbox.take_next()) is not None:
            peer.under_way.append(due)
            new = [each.message.length for each in peer.under_way if each.sequence > len(peer.arrived)]
            there = sum(peer.waiting) + sum(new)
            assert len(peer.waiting) + len(new) == 1 or there <= 8 * longest

    for step, count in [*steps, ("break", 0), *[("write", 0), ("get", 99), ("take", 99), ("tell", 0)] * 30]:
        if step == "add":
            for _ in range(count):
                try:
                    add(outbox, longest // count)
                    sent.append(longest // count)
                except PeerBehind:
                    break
        elif step == "write":
            write()
        elif step == "get":
            peer.get(count)
        elif step == "take":
            peer.take(count)
        elif step == "tell":
            outbox.learn(len(peer.arrived), peer.taken)
        elif step == "greet":
            peer.said = len(peer.arrived)
        else:
            peer.under_way.clear()
            outbox.restart(len(peer.arrived) if peer.said is None else peer.said)
            peer.said = None
    assert peer.arrived == sent
    assert peer.taken == len(sent)
    assert outbox.is_empty
    assert outbox.is_written
