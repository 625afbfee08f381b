"""Messages wait in the inbox for the iteration that needs them."""

import threading
import time

import pytest

from flaremesh.links import Key, LinkClosed, LinkError, PeerTimeout, RunAborted
from flaremesh.links import inbox as inbox_module
from flaremesh.links.inbox import Inbox, has_room
from flaremesh.links.link import Refusal

FROM_BONN, FROM_KIEL = Key(3, 0, "bonn"), Key(3, 0, "kiel")


@pytest.fixture
def inbox():
    return Inbox(cancelled=lambda: False)


def test_messages_are_taken_once_whenever_they_arrived(inbox):
    inbox.put(FROM_BONN, b"early")
    later = threading.Timer(0.05, inbox.put, (FROM_KIEL, b"late"))
    later.start()
    assert inbox.take([FROM_BONN, FROM_KIEL], timeout=10) == {FROM_BONN: b"early", FROM_KIEL: b"late"}
    with pytest.raises(PeerTimeout):
        inbox.take([FROM_BONN], timeout=0)


def test_whoever_takes_a_message_may_learn_when_it_came(inbox):
    before = time.perf_counter()
    inbox.put(FROM_BONN, b"early")
    between = time.perf_counter()
    threading.Timer(0.05, inbox.put, (FROM_KIEL, b"late")).start()
    came = {}
    inbox.take([FROM_BONN, FROM_KIEL], 10, came.__setitem__)
    assert before <= came["bonn"] <= between
    assert came["kiel"] >= between + 0.05


def test_a_message_of_the_next_iteration_waits_for_it(inbox):
    following = Key(4, 0, "bonn")
    inbox.put(following, b"next")
    inbox.put(FROM_BONN, b"now")
    assert inbox.take([FROM_BONN], timeout=0) == {FROM_BONN: b"now"}
    assert inbox.take([following], timeout=0) == {following: b"next"}


def test_a_timeout_names_exactly_the_missing_peers(inbox):
    inbox.put(FROM_BONN, b"here")
    with pytest.raises(PeerTimeout, match="no value from aachen, kiel for iteration 3 within 0 s") as caught:
        inbox.take([FROM_KIEL, FROM_BONN, Key(3, 0, "aachen")], timeout=0)
    assert caught.value.iteration == 3


def test_a_wait_ends_at_its_timeout(inbox):
    started = time.monotonic()
    with pytest.raises(PeerTimeout):
        inbox.take([FROM_BONN], timeout=0.1)
    assert 0.1 <= time.monotonic() - started < 5


def test_an_abort_ends_the_wait():
    aborted = threading.Event()
    threading.Timer(0.05, aborted.set).start()
    with pytest.raises(RunAborted):
        Inbox(aborted.is_set).take([FROM_BONN], timeout=60)


def test_an_abort_is_noticed_even_where_nothing_is_missing():
    with pytest.raises(RunAborted):
        Inbox(cancelled=lambda: True).take([], timeout=60)


MIB = 1 << 20


@pytest.mark.parametrize("longest", [1, 5 * MIB, 900 * MIB])
def test_a_sender_may_be_a_few_messages_ahead_and_what_it_owes_always_fits(longest):
    box = Inbox(lambda: False)
    box.expect(longest)
    ahead = max(8, MIB // longest)  # messages
    assert has_room(0, longest, longest)
    assert has_room(1, 2 * longest, longest)
    assert not has_room(0, (ahead + 1) * longest, longest)
    assert box.refusal("b", longest) is None


def test_so_many_messages_of_a_sender_wait_and_no_more(monkeypatch):
    monkeypatch.setattr(inbox_module, "_EARLY_MESSAGES", 2)
    box = Inbox(lambda: False)
    for iteration in range(2):
        assert box.refusal("b", 1) is None
        box.put(Key(iteration, 0, "b"), b"x")
    assert box.refusal("b", 1) is Refusal.EARLY
    assert box.refusal("c", 1) is None
    box.take([Key(0, 0, "b")], 0)
    assert box.refusal("b", 1) is None


def test_little_is_taken_in_before_it_is_known_how_long_messages_are():
    box = Inbox(lambda: False)
    box.put(Key(0, 0, "b"), bytes(MIB - 1))
    assert box.refusal("b", 1) is None
    assert box.refusal("b", 2) is Refusal.EARLY
    box.expect(100)
    assert box.refusal("b", 101) is Refusal.OVERSIZED
    box.expect(200)
    box.expect(100)
    assert box.refusal("c", 200) is None
    assert box.refusal("c", 201) is Refusal.OVERSIZED


def test_a_name_belongs_to_the_first_message_that_had_it():
    box = Inbox(lambda: False)
    key = Key(0, 0, "b")
    assert box.put(key, b"first")
    assert not box.put(key, b"second")
    assert box.take([key], 0) == {key: b"first"}
    assert not box.put(key, b"third")
    assert key not in box


def test_who_sent_a_message_may_be_told_that_it_was_taken():
    box, taken = Inbox(lambda: False), []
    for sender in "bc":
        box.put(Key(0, 0, sender), b"x")
        box.on_take(sender, lambda length, sender=sender: taken.append((sender, length)))
    assert taken == []
    box.take([Key(0, 0, "b")], 0)
    assert taken == [("b", 1)]
    box.take([Key(0, 0, "c")], 0)
    assert taken == [("b", 1), ("c", 1)]


@pytest.mark.parametrize("before", [True, False])
def test_a_failure_ends_the_wait_for_what_is_missing_and_what_is_there_is_taken(before):
    box = Inbox(lambda: False)
    box.put(FROM_BONN, b"here")
    first, second = LinkError("first"), LinkError("second")
    if before:
        box.fail(first)
    else:
        threading.Timer(0.05, box.fail, (first,)).start()
    with pytest.raises(LinkError, match="first"):
        box.take([FROM_BONN, FROM_KIEL], 60)
    box.fail(second)
    with pytest.raises(LinkError, match="first"):
        box.take([FROM_KIEL], 60)
    assert box.take([FROM_BONN], 0) == {FROM_BONN: b"here"}


def test_a_closed_inbox_forgets_all_and_keeps_nothing():
    box = Inbox(lambda: False)
    box.put(FROM_BONN, b"before")
    threading.Timer(0.05, box.close).start()
    with pytest.raises(LinkClosed, match="kiel"):
        box.take([FROM_KIEL], 60)
    box.put(FROM_KIEL, b"after")
    assert FROM_BONN not in box
    assert FROM_KIEL not in box
    assert box.waiting("bonn") == box.waiting("kiel") == (0, 0)


def test_whoever_may_wait_longer_is_asked_for_when_the_time_is_over_and_the_first_deadline_counts(inbox):
    asked = []

    def deadline(peer, started, timeout):
        asked.append((peer, timeout))
        return started + {"bonn": 0.4, "kiel": 60}[peer]

    began = time.monotonic()
    with pytest.raises(PeerTimeout, match=r"from bonn for iteration 3 within 0\.4") as caught:
        inbox.take([FROM_BONN, FROM_KIEL], 0.1, deadline_of=deadline)
    assert 0.4 <= time.monotonic() - began < 5
    assert caught.value.peers == ["bonn"]
    assert set(asked) == {("bonn", 0.1), ("kiel", 0.1)}
