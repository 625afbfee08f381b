from random import Random

import pytest

from bench.wan.line import Line, Shape
from bench.wan.namespaces import HEADER
from bench.wan.router import on_the_wire

MEGABIT = 1e6


def put(line, count, now=0.0, length=1000):
    for number in range(count):
        line.put(bytes([number % 256]), length, now)
    return line


def test_a_packet_comes_out_after_it_was_written_and_has_travelled():
    line = put(Line(Shape(8 * MEGABIT, 0.5)), 1)
    assert line.under_way[0].at == pytest.approx(0.501)


def test_packets_wait_for_those_before_them_and_keep_their_order():
    line = put(Line(Shape(8 * MEGABIT, 0.5)), 3)
    assert [due.at for due in line.under_way] == pytest.approx([0.501, 0.502, 0.503])
    assert [due.packet[0] for due in line.under_way] == [0, 1, 2]


def test_a_line_that_has_stood_idle_begins_when_something_comes():
    line = put(put(Line(Shape(8 * MEGABIT, 0.5)), 1), 1, now=10.0)
    assert line.under_way[1].at == pytest.approx(10.501)
    assert line.count.busy == pytest.approx(0.002)


def test_what_comes_when_the_queue_is_full_is_lost():
    line = put(Line(Shape(8 * MEGABIT, 0.5, queue=5000)), 20)
    assert len(line.under_way) == line.count.packets == 5
    assert (line.count.full, line.count.longest) == (15, pytest.approx(4000))


def test_a_packet_longer_than_the_queue_passes_a_line_that_is_free():
    assert put(Line(Shape(8 * MEGABIT, 0.5, queue=100)), 1).under_way


def test_the_share_that_was_asked_for_is_lost_and_took_its_time():
    line = put(Line(Shape(8 * MEGABIT, 0.5, loss=0.1, queue=1 << 30), random=Random(7)), 10_000)
    assert line.count.lost == pytest.approx(1000, rel=0.1)
    assert line.count.lost + len(line.under_way) == 10_000
    assert line.count.busy == pytest.approx(10.0)


def packet(payload, segment, protocol=6):
    network = bytes([0x45, *bytes(8), protocol, *bytes(10)])
    transport = bytes([*bytes(12), 0x80, *bytes(19)])
    return HEADER.pack(1, 1, 52, segment, 20, 16) + network + transport + bytes(payload)


def test_what_is_handed_over_uncut_counts_with_the_headers_of_its_segments():
    assert on_the_wire(packet(3 * 1448, 1448)) == 3 * 1500
    assert on_the_wire(packet(3 * 1448 + 1, 1448)) == 3 * 1500 + 53
    assert on_the_wire(packet(100, 0)) == 152
