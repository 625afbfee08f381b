"""Measures what the export of metrics costs a run whose iterations take a millisecond.

A few iterations with the metrics of a site and as many without them take turns: whatever else the machine
does hits both; medians are compared. The page that a thread makes once a second is timed by itself. Writes
export.json.
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
from flaremesh.metrics.prometheus import DIRECTORY_VARIABLE, PAGE_SECONDS, PrometheusSink
from flaremesh.metrics.sink import Evaluation, Iteration
from flaremesh.topology.neighborhood import Neighborhood

ITERATION_SECONDS = 1e-3
_ITERATIONS = 10  # of a turn
_TURNS = 300
_PAGES = 50
_EVALUATE_EVERY = 50
TARGET_PERCENT = 1.0


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.export", description=__doc__)
    parser.add_argument("--turns", type=int, default=_TURNS, help="how often either takes its turn")
    parser.add_argument("--output", type=Path, default=ROOT / "build/bench", help="folder")
    given = parser.parse_args(arguments)
    rows = [overhead(degree, given.turns) for degree in (2, 16)]
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "export.json").write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        verdict = "met" if row["percent"] < TARGET_PERCENT else "MISSED"
        Console().print(
            f"{row['neighbours']} neighbours, an iteration of {1e3 * ITERATION_SECONDS:g} ms: "
            f"{row['telling_microseconds']:.3g} µs to tell, {row['page_microseconds']:.3g} µs for pages, "
            f"{row['percent']:.2g} % ({verdict}: < {TARGET_PERCENT:g} %)"
        )


def overhead(degree: int, turns: int) -> dict[str, float]:
    """What an iteration pays, in CPU time of the process."""
    peers = [f"site-{number}" for number in range(degree)]
    work = calibrated(ITERATION_SECONDS)
    with tempfile.TemporaryDirectory() as directory:
        os.environ[DIRECTORY_VARIABLE] = directory
        hood = Neighborhood("site", 0.5, dict.fromkeys(peers, 0.5 / degree), tuple(peers))
        sink = PrometheusSink("run", "dgd", "bench", _ITERATIONS, [hood], 0.1, 0.5)
        bare, watched = [], []
        for turn in range(turns):
            bare.append(seconds(work, lambda iteration: None))
            watched.append(seconds(work, lambda iteration: tell(sink, peers, iteration), turn))
        pages = [page_seconds(sink) for _ in range(_PAGES)]
        sink.state(RunState.FINISHED)
    telling = statistics.median(watched) - statistics.median(bare)
    page = statistics.median(pages) * ITERATION_SECONDS / PAGE_SECONDS
    return {
        "neighbours": degree,
        "telling_microseconds": 1e6 * telling,
        "page_microseconds": 1e6 * page,
        "percent": 100 * (telling + page) / statistics.median(bare),
        "turns": turns,
    }


def page_seconds(sink: PrometheusSink) -> float:
    """CPU seconds of a page, which a state writes at once."""
    started = time.thread_time()
    sink.state(RunState.RUNNING)
    return time.thread_time() - started


def tell(sink: PrometheusSink, peers: list[str], iteration: int) -> None:
    """All that an iteration tells: what its links do and what it measured."""
    for peer in peers:
        sink.sent(peer, 1000)
        sink.received(peer, 1000)
        sink.waited(peer, 1e-4)
    sink.iteration(Iteration(iteration, 0.5, 0.1, 1e-3, 2e-4, 5e-4, 1e-4, 1e-4, 1e-4))
    if iteration % _EVALUATE_EVERY == 0:
        sink.evaluation(Evaluation(iteration, {"loss": 0.5, "accuracy": 0.9}, 1e-3))


def seconds(work: Callable[[], None], told: Callable[[int], None], turn: int = 0) -> float:
    """CPU seconds of an iteration, the mean of a turn."""
    started = time.thread_time()
    for iteration in range(turn * _ITERATIONS, (turn + 1) * _ITERATIONS):
        work()
        told(iteration)
    return (time.thread_time() - started) / _ITERATIONS


def calibrated(length: float) -> Callable[[], None]:
    """Work of so many seconds."""

    def work(turns: int) -> None:
        for _ in range(turns):
            pass

    turns = 100_000
    started = time.thread_time()
    for _ in range(20):
        work(turns)
    each = (time.thread_time() - started) / 20
    return lambda: work(round(turns * length / each))


if __name__ == "__main__":
    main()
