"""What one peer sends: taken in in its order, as far as there is place, and acknowledged."""

import gc
import itertools
import socket

import pytest
from direct_mesh import edges_of
from neighbour import Neighbour, data, word

from flaremesh.links import Key, LinkKind, Refusal
from flaremesh.links import inbox as inbox_module
from flaremesh.links import inlet as inlet_module
from flaremesh.links.buffers import BufferPool
from flaremesh.links.channel import LARGE_BYTES, Channel
from flaremesh.links.frame import HEADER_BYTES, FrameError, Kind
from flaremesh.links.inlet import Inlet

LARGE = LARGE_BYTES + 5
MIB = 1 << 20


class Reader:
    """What site b has of a, over one connection after another."""

    def __init__(self, sources="a", **options):
        self.edges = edges_of("b", sources=sources, **options)
        self.edges.inbox.expect(MIB)
        self.roused = 0
        self.inlet = Inlet(self.edges, "a", self._rouse)
        self._neighbour = self.channel = None
        self.connect()

    def _rouse(self):
        self.roused += 1

    def connect(self):
        self.close()
        near, far = socket.socketpair()
        self.channel, self._neighbour = Channel(near, LinkKind.DIRECT), Neighbour(far)
        self.inlet.restart()

    def gets(self, *content):
        """Take in what the peer sends; returns the frames that were whole, and had a place."""
        self._neighbour.send(*content)
        frames = []
        while True:
            frame = self.inlet.step(self.channel)
            if frame is not None:
                frames.append(frame)
            elif not self.channel.is_ready(0) or self.inlet.has_no_place or not self.channel.fill():
                return frames

    def refuses(self, *content):
        """Why what the peer sends ends the connection."""
        with pytest.raises(FrameError) as caught:
            self.gets(*content)
        return caught.value.reason

    def waiting(self):
        return self.edges.inbox.waiting("a")[0]

    def take(self, *iterations):
        keys = [Key(k, 0, "a") for k in iterations]
        taken = self.edges.inbox.take(keys, 0)
        return [bytes(taken[key]) for key in keys]

    def told(self):
        return self.inlet.acknowledgement()

    def close(self):
        if self.channel is not None:
            self.channel.close()
            self._neighbour.close()


@pytest.fixture
def make():
    made = []

    def make(**options):
        made.append(Reader(**options))
        made[-1].told()
        return made[-1]

    yield make
    for reader in made:
        reader.close()


@pytest.fixture
def reader(make):
    return make()


# what arrives


@pytest.mark.parametrize("length", [0, 1, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, 100_000])
def test_a_message_of_any_length_is_put_into_the_inbox(reader, length):
    content = (bytes(range(256)) * (length // 256 + 1))[:length]
    assert [frame.sequence for frame in reader.gets(data(1, content))] == [1]
    assert reader.take(0) == [content]
    assert reader.inlet.received == 1
    assert reader.inlet.is_large == (length >= LARGE_BYTES)
    assert reader.edges.observer.received_bytes == {"a": length}


@pytest.mark.parametrize("length", [5, LARGE])
def test_a_message_may_come_byte_by_byte(reader, length):
    content = data(1, bytes(length)) + data(2, b"next", 1)
    cuts = [0, 1, 20, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 1, HEADER_BYTES + 4]
    cuts += [HEADER_BYTES + length, HEADER_BYTES + length + 1, len(content)]
    for start, end in itertools.pairwise(cuts):
        reader.gets(content[start:end])
    assert reader.take(0, 1) == [bytes(length), b"next"]


def test_words_between_messages_are_handed_on(reader):
    kinds = [Kind.ACK, Kind.ALIVE, Kind.FLUSH, Kind.END]
    content = [piece for n, kind in enumerate(kinds, 1) for piece in (data(n, b"x", n), word(kind, n, n - 1))]
    frames = reader.gets(*content)
    assert [frame.kind for frame in frames[1::2]] == kinds
    assert [(frame.acknowledged, frame.taken) for frame in frames[1::2]] == [(1, 0), (2, 1), (3, 2), (4, 3)]
    assert reader.waiting() == 4


# what it acknowledges


def test_small_messages_share_an_acknowledgement(reader):
    for number in range(1, 8):
        reader.gets(data(number, b"x", number))
        assert not reader.inlet.owes
    reader.gets(data(8, b"x", 8))
    assert reader.inlet.owes
    assert reader.told() == (8, 0)
    assert not reader.inlet.owes


def test_a_large_message_is_acknowledged_at_once(reader):
    reader.gets(data(1, bytes(LARGE)))
    assert reader.inlet.owes
    assert reader.told() == (1, 0)


def test_the_peer_hears_of_messages_that_were_taken(reader):
    reader.gets(*(data(number, b"x", number) for number in range(1, 8)))
    reader.told()
    for number in range(1, 4):
        reader.take(number)
        assert not reader.inlet.owes
    assert reader.roused == 0
    reader.take(4)
    assert reader.inlet.owes
    assert reader.roused == 1
    assert reader.told() == (7, 4)


@pytest.mark.parametrize("length", [LARGE_BYTES // 3 + 1, LARGE])
def test_the_peer_hears_at_once_of_large_messages_that_were_taken(reader, length):
    """It may have no room for another one before."""
    reader.gets(*(data(number, bytes(length), number) for number in range(1, 5)))
    reader.told()
    for number in range(1, 1 + (3 if length < LARGE_BYTES else 1)):
        assert reader.roused == 0
        reader.take(number)
    assert reader.roused == 1
    assert reader.inlet.owes
    reader.told()
    assert not reader.inlet.owes


def test_who_asks_and_who_has_a_new_connection_is_told_at_once(reader):
    assert not reader.inlet.owes
    reader.inlet.ask()
    assert reader.inlet.owes
    reader.told()
    reader.connect()
    assert reader.inlet.owes


# what is refused


def test_who_is_no_in_neighbour_sends_no_message(make):
    reader = make(sources="c")
    assert reader.gets(word(Kind.ACK))
    assert reader.refuses(data(1)) is Refusal.STRANGER
    assert reader.waiting() == 0


@pytest.mark.parametrize("number", [3, 4, 2**64 - 1])
def test_numbers_leave_none_out(reader, number):
    reader.gets(data(1))
    assert reader.refuses(data(number, b"x", 1)) is Refusal.MALFORMED


@pytest.mark.parametrize("length", [MIB + 1, 1 << 40, 2**64 - 1])
def test_what_is_longer_than_any_message_is_refused_before_memory_is_taken_for_it(
    reader, monkeypatch, length
):
    monkeypatch.setattr(BufferPool, "take", lambda *_: pytest.fail("took memory"))
    assert reader.refuses(data(1, b"x", length=length)) is Refusal.OVERSIZED


def test_what_is_longer_than_links_carry_is_refused_before_the_run_knows_its_length(make):
    reader = make(max_message_bytes=LARGE)
    reader.edges.inbox.longest = None
    assert reader.gets(data(1, bytes(LARGE)))
    assert reader.refuses(data(2, b"x", 1, length=LARGE + 1)) is Refusal.OVERSIZED


def test_a_machine_without_memory_refuses_one_message_and_goes_on(reader, monkeypatch):
    with monkeypatch.context() as change:
        change.setattr(BufferPool, "take", lambda *_: (_ for _ in ()).throw(MemoryError))
        assert reader.refuses(data(1, bytes(LARGE))) is Refusal.OVERSIZED
    reader.connect()
    assert reader.gets(data(1, bytes(LARGE)))


def test_what_was_refused_is_told_until_a_message_comes(reader):
    reader.inlet.refused = Refusal.OVERSIZED
    reader.connect()
    reader.gets(word(Kind.ALIVE))
    assert reader.inlet.refused is Refusal.OVERSIZED
    reader.gets(data(1))
    assert reader.inlet.refused is None


# what comes again


def test_a_message_that_comes_again_by_the_same_connection_is_refused_and_counted(reader):
    reader.gets(data(1, b"first"), data(1, b"again", 1), data(2, b"next", 2), data(1, b"again", 3))
    assert reader.edges.observer.refusals == {("a", Refusal.REPLAYED): 2}
    assert reader.waiting() == 2
    assert reader.take(0, 2) == [b"first", b"next"]


@pytest.mark.parametrize("length", [3, LARGE])
def test_what_comes_again_by_the_next_connection_is_dropped_without_a_word(reader, length):
    """The peer has not heard that it had arrived."""
    reader.gets(*(data(n, bytes([n]) * length, n) for n in (1, 2, 3)))
    reader.connect()
    reader.gets(*(data(n, bytes([n]) * length, n) for n in (2, 3, 4)))
    assert reader.inlet.received == 4
    assert reader.take(1, 2, 3, 4) == [bytes([n]) * length for n in (1, 2, 3, 4)]
    assert not reader.edges.observer.refusals
    assert reader.edges.observer.received_bytes == {"a": 4 * length}


def test_half_a_message_is_forgotten_with_its_connection(reader):
    reader.gets(data(1, bytes(LARGE))[: HEADER_BYTES + 10])
    reader.connect()
    assert [frame.sequence for frame in reader.gets(data(1, b"whole"))] == [1]
    assert reader.take(0) == [b"whole"]


def test_a_second_message_under_a_name_is_dropped_and_takes_no_room(reader):
    reader.gets(*(data(number, b"%d" % number, 0) for number in range(1, 6)))
    assert reader.edges.observer.refusals == {("a", Refusal.REPLAYED): 4}
    assert reader.inlet.owes
    assert reader.told() == (5, 4)
    assert reader.take(0) == [b"1"]
    assert reader.told() == (5, 5)


# what has no place yet


@pytest.mark.parametrize("length", [9, LARGE])
def test_what_has_no_place_waits_outside_without_memory_and_comes_in_then(reader, monkeypatch, length):
    monkeypatch.setattr(inbox_module, "_EARLY_MESSAGES", 1)
    reader.gets(data(1))
    with monkeypatch.context() as change:
        change.setattr(BufferPool, "take", lambda *_: pytest.fail("took memory"))
        assert reader.gets(data(2, bytes(length), 1), word(Kind.ACK)) == []
        assert reader.gets() == []
    assert reader.inlet.has_no_place
    assert reader.inlet.received == 1
    reader.take(0)
    assert [frame.kind for frame in reader.gets()] == [Kind.DATA, Kind.ACK]
    assert not reader.inlet.has_no_place
    assert reader.take(1) == [bytes(length)]


@pytest.mark.parametrize("length", [9, LARGE])
def test_what_comes_again_needs_no_place_and_holds_nothing_up(reader, monkeypatch, length):
    monkeypatch.setattr(inbox_module, "_EARLY_MESSAGES", 1)
    reader.gets(data(1, bytes(length)))
    reader.connect()
    assert [frame.kind for frame in reader.gets(data(1, bytes(length)), word(Kind.ACK))] == [
        Kind.DATA,
        Kind.ACK,
    ]
    assert reader.waiting() == 1


def test_what_comes_again_is_no_way_to_more_memory_either(reader):
    reader.gets(data(1))
    assert reader.refuses(data(1, b"x", length=MIB + 1)) is Refusal.OVERSIZED


def test_a_new_connection_forgets_that_there_was_no_place(reader, monkeypatch):
    monkeypatch.setattr(inbox_module, "_EARLY_MESSAGES", 1)
    reader.gets(data(1), data(2, b"x", 1))
    assert reader.inlet.has_no_place
    reader.connect()
    assert not reader.inlet.has_no_place


# memory that is used again


def test_large_messages_are_read_into_memory_that_is_used_again_once_nobody_has_it(reader, monkeypatch):
    allocated = []
    allocate = inlet_module.BufferPool()._allocate
    reader.inlet._pool = BufferPool(lambda length: allocated.append(length) or allocate(length))
    kept = []
    for number in range(1, 4):
        reader.gets(data(number, bytes([number]) * LARGE, number))
        key = Key(number, 0, "a")
        kept.append(reader.edges.inbox.take([key], 0)[key])
    assert len(allocated) == 3
    assert [bytes(message) for message in kept] == [bytes([n]) * LARGE for n in (1, 2, 3)]
    kept.clear()
    gc.collect()
    for number in range(4, 20):
        reader.gets(data(number, bytes(LARGE), number))
        reader.take(number)
    assert len(allocated) == 3
