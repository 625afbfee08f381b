"""A run's metrics: written by its process, shown by the exporter of its site."""

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from flaremesh.links.traffic import TrafficCounter
from flaremesh.metrics import slots
from flaremesh.metrics.names import RunMetric, RunState
from flaremesh.metrics.prometheus import DIRECTORY_VARIABLE, PrometheusSink, RunMetrics
from flaremesh.metrics.sink import Iteration
from flaremesh.topology.neighborhood import Neighborhood

SCRIPT = Path(__file__).with_name("run_process.py")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    slots.clear(tmp_path)
    return tmp_path


@contextmanager
def run_process(directory: Path, run_id: str, iterations: int = 3) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), run_id, str(iterations)],
        env=os.environ | {DIRECTORY_VARIABLE: str(directory)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ran\n"
        yield process
        process.communicate(timeout=30)


class Scrape:
    """What a scraper would read now."""

    def __init__(self, directory: Path):
        registry = CollectorRegistry(support_collectors_without_names=True)
        registry.register(RunMetrics(directory))
        text = generate_latest(registry).decode()
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._samples = [sample for family in self.families.values() for sample in family.samples]

    def values(self, name: str, **labels: str) -> list[float]:
        return [
            sample.value
            for sample in self._samples
            if sample.name == f"flaremesh_{name}" and labels.items() <= sample.labels.items()
        ]

    def value(self, name: str, **labels: str) -> float:
        (value,) = self.values(name, **labels)
        return value

    def labels(self, name: str, label: str) -> set[str]:
        return {sample.labels[label] for sample in self._samples if sample.name == f"flaremesh_{name}"}

    def state(self, slot: str) -> str:
        (state,) = (state for state in RunState if self.value("run_state", slot=slot, state=state))
        return state


def test_a_scrape_in_mid_run_shows_how_far_it_is(directory):
    with run_process(directory, "run-1", iterations=3):
        scrape = Scrape(directory)
    assert scrape.state("0") == RunState.RUNNING
    assert scrape.value("run_info", run_id="run-1", algorithm="dgd", topology="ring3") == 1
    assert scrape.value("current_iteration") == scrape.value("max_iterations") == 3
    assert scrape.value("iteration_duration_seconds_count") == scrape.value("iterations_total") == 3
    assert scrape.value("iteration_duration_seconds_bucket", le="0.0025") == 3
    assert scrape.value("iteration_duration_seconds_bucket", le="0.001") == 0
    assert scrape.value("phase_duration_seconds_sum", phase="compute") == pytest.approx(3 * 0.0007)
    assert scrape.value("train_loss") == pytest.approx(1 / 3)
    assert scrape.value("validation_accuracy_ratio") == 0.75
    assert scrape.value("gradient_norm") == 3
    assert scrape.value("innovation_norm") == 0.3
    assert scrape.value("step_size") == 0.1
    assert scrape.value("last_checkpoint_timestamp_seconds") == 1.5e9
    assert scrape.value("failed_checkpoints") == 2
    assert scrape.value("predicted_contraction_ratio") == 0.5
    assert scrape.value("neighbor_wait_seconds_total", peer="aachen") == pytest.approx(0.003)
    assert scrape.value("edge_link", peer="köln", kind="relayed") == 1
    assert scrape.value("edge_link_worse", peer="köln") == 1
    assert scrape.value("sent_bytes_total", peer="köln") == 300
    assert scrape.value("received_bytes_total", peer="aachen") == 150


def test_what_happens_is_shown_while_the_loop_goes_on(directory, monkeypatch):
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(directory))
    sink = PrometheusSink("run", "dgd", "ring", 1, [Neighborhood("bonn", 1.0, {}, ())], TrafficCounter(()))
    sink.iteration(Iteration(1, None, 0.0, seconds=1.0, wait_seconds=0.0, gradient_seconds=0.0))
    deadline = time.monotonic() + 30
    while Scrape(directory).value("iterations_total") != 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    sink.state(RunState.FINISHED)


def test_iterations_of_which_nothing_is_measured_count_too(directory, monkeypatch):
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(directory))
    sink = PrometheusSink("run", "mine", "ring", 9, [Neighborhood("bonn", 1.0, {}, ())], TrafficCounter(()))
    configured = time.time()
    sink.reached(7)
    sink.state(RunState.FINISHED)
    scrape = Scrape(directory)
    assert scrape.value("current_iteration") == scrape.value("iterations_total") == 7
    assert scrape.value("last_iteration_timestamp_seconds") >= configured


@pytest.mark.parametrize(("attempt", "shown"), [(None, "run"), ("job-2", "job-2")])
def test_a_further_attempt_has_the_id_of_its_run_and_its_own(directory, monkeypatch, attempt, shown):
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(directory))
    PrometheusSink("run", "mine", "ring", 9, [], TrafficCounter(()), attempt=attempt).state(RunState.FAILED)
    assert Scrape(directory).value("run_info", run_id="run", attempt=shown) == 1


def test_a_page_that_cannot_be_written_does_not_disturb_the_run(directory, monkeypatch):
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(directory))
    sink = PrometheusSink("run", "dgd", "ring", 1, [Neighborhood("bonn", 1.0, {}, ())], TrafficCounter(()))
    (directory / "slot-0.prom.partial").mkdir()
    sink.state(RunState.RUNNING)
    sink.state(RunState.FINISHED)
    assert Scrape(directory).state("0") != RunState.FINISHED


def test_neighbours_that_sent_nothing_yet_stand_at_zero(directory):
    with run_process(directory, "run-1"):
        scrape = Scrape(directory)
    assert scrape.value("received_bytes_total", peer="köln") == 0
    assert scrape.value("non_finite_values_total") == 0
    assert scrape.value("neighbors") == 2
    assert scrape.value("mixing_weight", peer="aachen") == 0.25


def test_who_was_clipped_is_told_by_neighbour(directory):
    with run_process(directory, "run-1"):
        scrape = Scrape(directory)
    assert scrape.value("clipped_exchanges_total", peer="aachen") == 1.5
    assert scrape.value("clipped_exchanges_total", peer="köln") == 0


def test_what_is_spent_of_a_privacy_budget_is_shown_with_it(directory):
    with run_process(directory, "run-1"):
        scrape = Scrape(directory)
    assert scrape.value("privacy_epsilon_spent") == 6.5
    assert scrape.value("privacy_epsilon_budget") == 8


def test_values_outlive_the_run_that_wrote_them(directory):
    with run_process(directory, "run-1", iterations=3):
        pass
    scrape = Scrape(directory)
    assert scrape.state("0") == RunState.FINISHED
    assert scrape.value("iterations_total") == 3
    assert scrape.value("run_info", run_id="run-1") == 1


def test_two_runs_at_once_do_not_mix(directory):
    with run_process(directory, "run-1", iterations=3), run_process(directory, "run-2", iterations=5):
        scrape = Scrape(directory)
    assert scrape.value("iterations_total", slot="0") == 3
    assert scrape.value("iterations_total", slot="1") == 5
    assert scrape.value("run_info", slot="1", run_id="run-2") == 1


def test_the_next_run_takes_the_slot_over_and_counts_anew(directory):
    with run_process(directory, "run-1", iterations=3):
        pass
    files = sorted(directory.iterdir())
    with run_process(directory, "run-2", iterations=5):
        scrape = Scrape(directory)
    assert scrape.labels("run_info", "run_id") == {"run-2"}
    assert scrape.value("iterations_total") == 5
    assert scrape.value("iteration_duration_seconds_count") == 5
    assert scrape.value("current_iteration") == 5
    assert sorted(directory.iterdir()) == files


def test_a_run_whose_process_was_killed_has_failed(directory):
    with run_process(directory, "run-1") as process:
        process.kill()
    assert Scrape(directory).state("0") == RunState.FAILED


def test_the_names_exported_are_the_names_declared(directory):
    with run_process(directory, "run-1"):
        scrape = Scrape(directory)
    # the parser names a counter's family without the suffix
    assert set(scrape.families) == {metric.value.full_name.removesuffix("_total") for metric in RunMetric}


def test_a_site_that_starts_begins_with_an_empty_directory(directory):
    with run_process(directory, "run-1"):
        pass
    (directory / "notes.txt").touch()
    slots.clear(directory)
    assert [file.name for file in directory.iterdir()] == ["notes.txt"]


def test_a_stranger_does_not_become_a_series(directory):
    with run_process(directory, "run-1"):
        scrape = Scrape(directory)
    assert scrape.value("exchange_failures_total", peer="aachen", reason="oversized") == 1
    assert scrape.value("exchange_failures_total", peer="", reason="stranger") == 2
    assert scrape.labels("exchange_failures_total", "peer") == {"aachen", ""}


def test_without_a_directory_a_run_goes_on_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv(DIRECTORY_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    sink = PrometheusSink("run", "dgd", "ring", 1, [Neighborhood("bonn", 1.0, {}, ())], TrafficCounter(()))
    sink.iteration(Iteration(1, None, math.inf, seconds=1.0, wait_seconds=0.0, gradient_seconds=0.0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "page",
    [
        'flaremesh_run_state{slot="x"} 1\n',
        'flaremesh_run_state{slot="1",state="up"} 1\n',
        "a{",
        "a b c\n",
        "\xff",
    ],
)
def test_a_page_that_a_run_spoilt_is_left_out_and_named(directory, caplog, page):
    (directory / "slot-1.prom").write_text(page, encoding="latin-1")
    with run_process(directory, "job-a"):
        assert Scrape(directory).state("0") == RunState.RUNNING
    assert "slot-1.prom is no page of metrics" in caplog.text
