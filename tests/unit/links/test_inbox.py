"""Messages wait in the inbox for the iteration that needs them."""

import threading
import time

import pytest

from flaremesh.links import Key, PeerTimeout, RunAborted
from flaremesh.links import inbox as inbox_module
from flaremesh.links.inbox import Inbox
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
    assert box.refusal("b", longest) is None
    assert box.refusal("b", longest, under_way=longest) is None
    assert box.refusal("b", longest, under_way=max(8 * longest, MIB)) is Refusal.EARLY


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
