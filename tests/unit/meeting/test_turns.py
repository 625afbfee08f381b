"""Turns: one origin after the other, in a share of the time."""

import time

from flaremesh.meeting.turns import Turns, origin


def order(turns):
    """Who had its turn, until nobody waits."""
    found = []
    while turns.seconds() is not None:
        with turns.turn() as item:
            if item is not None:
                found.append(item)
    return found


def test_origins_have_their_turns_one_after_the_other_and_each_its_oldest_first():
    turns = Turns(1.0)
    for item in ("x1", "x2", "x3", "x4", "y1", "z1", "y2"):
        turns.add(item[0], item)
    assert order(turns) == ["x1", "y1", "z1", "x2", "y2", "x3", "x4"]


def test_who_has_left_has_no_turn():
    turns = Turns(1.0)
    for item in ("x1", "x2", "y1"):
        turns.add(item[0], item)
    turns.remove("y", "y1")
    turns.remove("x", "x1")
    turns.remove("x", "x1")
    turns.remove("z", "z1")
    assert order(turns) == ["x2"]
    assert turns.seconds() is None


def test_all_turns_together_take_their_share_of_the_time():
    turns = Turns(0.25)
    for number in range(20):
        turns.add(str(number), number)
    started, busy, had = time.monotonic(), 0.0, 0
    while had < 20:
        with turns.turn() as item:
            if item is None:
                continue
            begun = time.thread_time()
            while time.thread_time() < begun + 0.005:
                pass
            busy += time.thread_time() - begun
            had += 1
    assert time.monotonic() - started >= 19 / 20 * busy / 0.25


def test_an_origin_is_an_address_or_a_network_of_ipv6_that_one_may_have_whole():
    assert origin("192.0.2.7") == origin("::ffff:192.0.2.7") == "192.0.2.7"
    assert origin("2001:db8::1") == origin("2001:db8::2:3:4:5") == "2001:db8::/64"
    assert origin("fe80::1%eth0") == "fe80::/64"
    assert origin("2001:db8:0:1::1") != origin("2001:db8::1")
