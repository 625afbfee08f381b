"""A site's history as a file: written at once, read back, thinned."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaremesh.metrics.sink import Evaluation, Iteration, Logged
from flaremesh.printable import printable
from flaremesh.record import RecordError
from flaremesh.runtime import history as histories
from flaremesh.runtime.history import HISTORY, History, evenly_spaced

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SECONDS = st.floats(0, 1e12)
NAMES = st.text().map(printable)
RECORDS = st.builds(
    Iteration, st.integers(1, 1 << 53), st.none() | NUMBERS, NUMBERS, *[SECONDS] * 6, finite=st.booleans()
) | st.builds(Evaluation, st.integers(0, 1 << 53), st.dictionaries(NAMES, NUMBERS), SECONDS)
RECORDS |= st.builds(
    Logged, st.integers(0, 1 << 53), st.integers(0, 1 << 53), st.dictionaries(NAMES, NUMBERS)
)


def record(iteration, loss=1.0):
    return Iteration(
        iteration, loss, 0.5, seconds=0.2, wait_seconds=0.1, gradient_seconds=0.05, overlap_seconds=0.04
    )


def test_every_record_is_a_line_of_json_in_order_even_if_the_run_fails(tmp_path):
    path = tmp_path / HISTORY

    def interrupted_run():
        with History(path) as history:
            history.evaluation(Evaluation(0, {"loss": 2.0}, seconds=0.3))
            history.iteration(record(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_run()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"iteration": 0, "metrics": {"loss": 2.0}, "seconds": 0.3},
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


@given(records=st.lists(RECORDS))
def test_what_is_read_is_what_was_written(tmp_path_factory, records):
    path = tmp_path_factory.getbasetemp() / HISTORY
    with History(path) as written:
        for each in records:
            written.add(each)
    read = History.read(path)
    assert (read.iterations, read.evaluations) == (written.iterations, written.evaluations)


def test_what_json_cannot_say_is_null_and_is_read_as_no_number(tmp_path):
    path = tmp_path / HISTORY
    with History(path) as history:
        history.iteration(Iteration(1, math.nan, math.inf, 0.2, 0.1, 0.1, finite=False))
        history.evaluation(Evaluation(1, {"loss": -math.inf}))
    iteration, evaluation = (json.loads(line) for line in path.read_text().splitlines())
    assert (iteration["loss"], iteration["consensus_distance"], evaluation["metrics"]) == (
        None,
        None,
        {"loss": None},
    )
    read = History.read(path)
    assert read.iterations[0].loss is None
    assert math.isnan(read.iterations[0].consensus_distance)
    assert math.isnan(read.evaluations[0].metrics["loss"])


def test_a_history_of_an_older_flaremesh_is_read_with_what_it_has(tmp_path):
    path = tmp_path / HISTORY
    path.write_text(
        '{"iteration": 0, "evaluation": {"loss": 2.0}}\n'
        '{"iteration": 1, "loss": 1.0, "consensus_distance": 0.5, "seconds": 0.2, "wait_seconds": 0.1, '
        '"gradient_seconds": 0.05, "told_by_a_newer_one": 7}\n'
    )
    read = History.read(path)
    assert read.evaluations == [Evaluation(0, {"loss": 2.0})]
    assert read.iterations == [Iteration(1, 1.0, 0.5, 0.2, 0.1, 0.05)]


def test_a_line_that_the_end_of_its_site_cut_off_is_dropped(tmp_path):
    path = tmp_path / HISTORY
    with History(path) as history:
        history.iteration(record(1))
        history.iteration(record(2))
    whole = path.read_bytes()
    for end in range(len(whole) // 2 + 1, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert History.read(path).last_iteration == 1


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ('{"iteration": 1, "loss": 1', "Invalid JSON"),
        ("[]", "iteration: Input should be"),
        ('{"iteration": 1}', "iteration.loss: Field required"),
        ('{"iteration": 1, "metrics": [1]}', "evaluation.metrics: Input should be"),
    ],
)
def test_a_spoilt_line_is_refused_by_file_line_and_field(tmp_path, line, mistake):
    path = tmp_path / HISTORY
    path.write_text(f'{{"iteration": 0, "metrics": {{}}}}\n{line}\n')
    with pytest.raises(RecordError) as refusal:
        History.read(path)
    assert str(refusal.value).startswith(f"{path}, line 2, is not a record of a history: {mistake}")


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
    records = history.thinned(50)
    assert len(records) == 100
    iterations = [each.iteration for each in records]
    assert iterations == sorted(iterations)
    assert [each.iteration for each in records if isinstance(each, Iteration)][::49] == [1, 1000]


def test_what_is_logged_seldom_is_not_thinned_away_by_what_is_logged_often():
    history = History()
    for step in range(1000):
        history.logged(Logged(step, step, {"train/loss": 1.0, "lr": 0.5}))
        if step % 100 == 7:
            history.logged(Logged(step, step, {"val/loss": 2.0}))
    records = history.thinned(50)
    assert len(records) <= 100
    assert len([each for each in records if "val/loss" in each.logged]) == 10
    trained = [each.step for each in records if "lr" in each.logged]
    assert len(trained) == 50
    assert (trained[0], trained[-1]) == (0, 999)


def test_no_names_are_so_many_that_a_thinned_history_is_too_long():
    history = History()
    for name in range(300):
        for step in range(3):
            history.logged(Logged(step, step, {str(name): 1.0}))
    assert len(history.thinned(50)) == 100


@pytest.mark.parametrize("length", [0, 1, 2, 5, 6, 11, 1000])
def test_evenly_spaced_keeps_at_most_the_limit(length):
    kept = evenly_spaced(range(length), 5)
    assert len(kept) == min(length, 5)
    assert kept == sorted(set(kept))
    if length:
        assert (kept[0], kept[-1]) == (0, length - 1)


def test_a_history_on_a_full_volume_is_kept_and_written_once_there_is_room(volume, monkeypatch, caplog):
    monkeypatch.setattr(histories, "_WRITE_SECONDS", 0.0)
    monkeypatch.setattr(histories, "_RETRY_SECONDS", 0.0)
    path = volume.folder / HISTORY
    with History(path) as history:
        history.iteration(record(1))
        volume.fill()
        for iteration in range(2, 2000):
            history.iteration(record(iteration))
        assert caplog.text.count("the history is kept in memory") == 1
        reached = History.read(path)
        assert 1 <= reached.last_iteration < 1999
        assert reached.iterations == history.iterations[: reached.last_iteration]
        volume.clear()
        history.iteration(record(2000))
        assert History.read(path).last_iteration == 2000
    assert History.read(path).iterations == history.iterations


def test_a_history_that_never_finds_room_says_so_at_the_end_and_hides_no_other_error(volume):
    def run(error=None):
        with History(volume.folder / HISTORY) as history:
            volume.fill()
            for iteration in range(1, 2000):
                history.iteration(record(iteration))
            if error:
                raise error

    with pytest.raises(OSError, match="No space left"):
        run()
    with pytest.raises(KeyError):
        run(KeyError())
