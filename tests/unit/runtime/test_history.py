import json

import pytest

from flaremesh.metrics.sink import Evaluation, Iteration
from flaremesh.runtime.history import History, evenly_spaced


def record(iteration, loss=1.0):
    return Iteration(
        iteration, loss, 0.5, seconds=0.2, wait_seconds=0.1, gradient_seconds=0.05, overlap_seconds=0.04
    )


def test_every_record_is_a_line_of_json_in_order_even_if_the_run_fails(tmp_path):
    path = tmp_path / "history.jsonl"

    def interrupted_run():
        with History(path) as history:
            history.evaluation(Evaluation(0, {"loss": 2.0}))
            history.iteration(record(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_run()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"iteration": 0, "evaluation": {"loss": 2.0}},
        {
            "iteration": 1,
            "loss": 1.0,
            "consensus_distance": 0.5,
            "seconds": 0.2,
            "wait_seconds": 0.1,
            "gradient_seconds": 0.05,
            "overlap_seconds": 0.04,
            "send_seconds": 0.0,
            "mix_seconds": 0.0,
            "finite": True,
        },
    ]


def test_what_json_cannot_say_becomes_null():
    history = History()
    history.iteration(record(1, loss=float("nan")))
    history.evaluation(Evaluation(1, {"loss": float("inf")}))
    row, evaluation = history.thinned(10)
    assert row["loss"] is None
    assert evaluation["evaluation"] == {"loss": None}


def test_the_latest_figures_are_at_hand():
    history = History()
    assert (history.last_iteration, history.last_metrics) == (0, {})
    history.iteration(record(3))
    history.evaluation(Evaluation(3, {"accuracy": 0.9}))
    assert (history.last_iteration, history.last_metrics) == (3, {"accuracy": 0.9})


def test_thinning_keeps_first_and_last_and_the_order():
    history = History()
    for iteration in range(1, 1001):
        history.iteration(record(iteration))
        if iteration % 10 == 0:
            history.evaluation(Evaluation(iteration, {}))
    rows = history.thinned(50)
    assert len(rows) == 100
    iterations = [row["iteration"] for row in rows]
    assert iterations == sorted(iterations)
    assert [row["iteration"] for row in rows if "loss" in row][::49] == [1, 1000]


@pytest.mark.parametrize("length", [0, 1, 2, 5, 6, 11, 1000])
def test_evenly_spaced_keeps_at_most_the_limit(length):
    kept = evenly_spaced(range(length), 5)
    assert len(kept) == min(length, 5)
    assert kept == sorted(set(kept))
    if length:
        assert (kept[0], kept[-1]) == (0, length - 1)
