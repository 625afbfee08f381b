"""Measures what the export of metrics costs a run whose iterations take a millisecond.

Rounds with the metrics of a site and rounds without them take turns. A round lasts a second, so that it pays
for a page where there are metrics. Writes export.json.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from bench.processes import ROOT
from flaremesh.metrics.names import RunState
from flaremesh.metrics.prometheus import DIRECTORY_VARIABLE, PrometheusSink
from flaremesh.metrics.sink import Evaluation, Iteration
from flaremesh.topology.neighborhood import Neighborhood

ITERATION_SECONDS = 1e-3
_ITERATIONS = 1000  # of a round
_ROUNDS = 15
_EVALUATE_EVERY = 50
TARGET_PERCENT = 1.0


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.export", description=__doc__)
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="how often either takes its turn")
    parser.add_argument("--output", type=Path, default=ROOT / "build/bench", help="folder")
    given = parser.parse_args(arguments)
    rows = [overhead(degree, given.rounds) for degree in (2, 16)]
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "export.json").write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        verdict = "met" if row["percent"] < TARGET_PERCENT else "MISSED"
        Console().print(
            f"{row['neighbours']} neighbours: {row['microseconds']:.3g} µs of an iteration of "
            f"{1e3 * ITERATION_SECONDS:g} ms, {row['percent']:.2g} % ({verdict}: < {TARGET_PERCENT:g} %)"
        )


def overhead(degree: int, rounds: int) -> dict[str, float]:
    """Seconds of CPU by which the rounds with metrics are longer, per iteration."""
    peers = [f"site-{number}" for number in range(degree)]
    work = calibrated(ITERATION_SECONDS)
    with tempfile.TemporaryDirectory() as directory:
        os.environ[DIRECTORY_VARIABLE] = directory
        hood = Neighborhood("site", 0.5, dict.fromkeys(peers, 0.5 / degree), tuple(peers))
        sink = PrometheusSink("run", "dgd", "bench", _ITERATIONS, [hood], 0.1, 0.5)
        sink.state(RunState.RUNNING)
        costs = []
        for _ in range(rounds):
            bare = seconds(work, lambda iteration: None)
            watched = seconds(work, lambda iteration: tell(sink, peers, iteration))
            costs.append((watched - bare) / _ITERATIONS)
        sink.state(RunState.FINISHED)
    cost = statistics.median(costs)
    return {
        "neighbours": degree,
        "microseconds": 1e6 * cost,
        "percent": 100 * cost / ITERATION_SECONDS,
        "rounds": rounds,
    }


def tell(sink: PrometheusSink, peers: list[str], iteration: int) -> None:
    """All that an iteration tells: what its links do and what it measured."""
    for peer in peers:
        sink.sent(peer, 1000)
        sink.received(peer, 1000)
        sink.waited(peer, 1e-4)
    sink.iteration(Iteration(iteration, 0.5, 0.1, 1e-3, 2e-4, 5e-4, 1e-4, 1e-4, 1e-4))
    if iteration % _EVALUATE_EVERY == 0:
        sink.evaluation(Evaluation(iteration, {"loss": 0.5, "accuracy": 0.9}, 1e-3))


def seconds(work: Callable[[], None], told: Callable[[int], None]) -> float:
    """CPU seconds of the whole process, the thread that makes the pages included, for a round."""
    started = time.process_time()
    for iteration in range(_ITERATIONS):
        work()
        told(iteration)
    return time.process_time() - started


def calibrated(length: float) -> Callable[[], None]:
    """Work in Python, which competes with the thread that makes the pages, of so many seconds."""

    def work(turns: int) -> None:
        for _ in range(turns):
            pass

    turns = 100_000
    started = time.process_time()
    for _ in range(20):
        work(turns)
    each = (time.process_time() - started) / 20
    return lambda: work(round(turns * length / each))


if __name__ == "__main__":
    main()
