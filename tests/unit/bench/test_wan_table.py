import pytest

from bench.samples import FLAREMESH, LEARNING, TRAINING
from bench.wan.cases import FAST, SLOW, Way
from bench.wan.result import Result
from bench.wan.table import markdown_of, rows_of

WAY = Way(100e6, 0.025)
WAYS = {WAY.name: WAY}
PARTS = {"wait_seconds": 3.0, "send_seconds": 0.1, "mix_seconds": 0.2}


def result(seconds, floats=10_000_000, system="flaremesh", size=40_000_000, turn=0, **fields):
    return Result(WAY.name, 2, floats, system, turn, size, seconds, **{"parts": {}} | fields)


def row(results, unit, floats=10_000_000):
    (found,) = [row for row in rows_of(results, WAYS) if (row.unit, row.floats) == (unit, floats)]
    return found


def targets(row):
    return {target.text: target.met for target in row.targets}


def test_a_network_is_called_by_rate_and_delay():
    assert [SLOW.name, FAST.name] == ["100 Mbit/s, 25 ms", "1 Gbit/s, 5 ms"]


def test_the_share_of_the_line_counts_what_the_neighbours_get():
    share = row([result(4.0)], "% of the line")
    assert share.systems["flaremesh"].median == pytest.approx(80.0)
    assert targets(share) == {">= 90 % of the line": False}
    assert targets(row([result(3.5)], "% of the line")) == {">= 90 % of the line": True}


def test_a_full_line_carries_headers_and_delays_the_last_byte():
    ideal = row([result(4.0)], "ms").systems["a full line"].median
    assert ideal == pytest.approx(1e3 * (3.2 * 1500 / 1448 + 0.025))


def test_a_wire_is_compared_with_exact_in_the_same_turn():
    narrow = [
        result(s, system="flaremesh, bfloat16", size=2e7, turn=t) for t, s in enumerate([1.0, 4.0, 2.1])
    ]
    times = row([result(s, turn=t) for t, s in enumerate([2.0, 8.0, 4.0])] + narrow, "times exact")
    assert times.systems["flaremesh, bfloat16"].median == pytest.approx(2.0)
    assert targets(times) == {"bfloat16 >= 1.8x exact": True}


@pytest.mark.parametrize(("seconds", "met"), [(0.0504, True), (0.0506, False)])
def test_a_number_may_take_a_round_trip(seconds, met):
    number = row([result(seconds, floats=1, size=4)], "ms", floats=1)
    assert targets(number) == {"<= round trip + 0.5 ms": met}


def test_what_failed_is_shown_as_failed():
    failed = row([result(None), result(4.0, turn=1)], "ms").systems["flaremesh"]
    assert (failed.failed, failed.median) == (1, 4000.0)


def test_the_table_says_how_long_the_line_is_idle_for_the_site_s_own_work():
    results = [result(4.0, parts=PARTS)]
    markdown = markdown_of(rows_of(results, WAYS), results, [], [], [])
    assert "| 100 Mbit/s, 25 ms | 2 | 1e+07 | flaremesh | 4000 | 3000 | 100 | 200 | 7.5 |  |  |" in markdown


def test_the_table_says_how_far_off_the_predictions_of_the_turns_were():
    seconds, predicted = [4.0, 5.0, 2.0], [4.4, 4.5, 2.1]
    results = [
        result(s, turn=turn, parts=PARTS, predicted=p)
        for turn, (s, p) in enumerate(zip(seconds, predicted, strict=True))
    ]
    assert "| 7.5 | 4400 | +5 |" in markdown_of(rows_of(results, WAYS), results, [], [], [])


def test_the_table_says_how_long_training_takes_and_what_has_failed():
    trainings = [
        {"way": WAY.name, "sites": 4, "turn": turn, "seconds": {TRAINING: {FLAREMESH: 10.0 + turn}}}
        for turn in range(3)
    ]
    shown = markdown_of([], [], [], [], trainings)
    assert f"| {WAY.name} | 4 | {TRAINING} | 11.00 | failed | failed |" in shown
    assert f"| {WAY.name} | 4 | {LEARNING} | failed | failed | failed |" in shown
