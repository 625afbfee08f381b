"""Measures what the export of metrics costs a run whose iterations take a millisecond.

After each millisecond of work what an iteration tells is timed; the median does not mind what else the
machine does. The page that a thread makes once a second is timed by itself. Counting messages is timed too,
but it is no part of the export: a run's result says the same. Writes export.json and export.md.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console

from bench.processes import ROOT
from flaremesh.links.traffic import TrafficCounter
from flaremesh.metrics.names import RunState
from flaremesh.metrics.prometheus import DIRECTORY_VARIABLE, PAGE_SECONDS, PrometheusSink
from flaremesh.metrics.sink import Iteration
from flaremesh.topology.neighborhood import Neighborhood

ITERATION_SECONDS = 1e-3
_ITERATIONS = 5000
_PAGES = 50
TARGET_PERCENT = 1.0


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.export", description=__doc__)
    parser.add_argument("--iterations", type=int, default=_ITERATIONS, help="how many are timed")
    parser.add_argument("--output", type=Path, default=ROOT / "build/bench", help="folder")
    given = parser.parse_args(arguments)
    rows = [overhead(degree, given.iterations) for degree in (2, 16)]
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "export.json").write_text(json.dumps(rows, indent=1) + "\n")
    (given.output / "export.md").write_text(markdown_of(rows))
    for row in rows:
        verdict = "met" if row["percent"] < TARGET_PERCENT else "MISSED"
        Console().print(
            f"{row['neighbours']} neighbours, an iteration of {1e3 * ITERATION_SECONDS:g} ms: "
            f"{row['telling_microseconds']:.3g} µs to tell, {row['page_microseconds']:.3g} µs for pages, "
            f"{row['percent']:.2g} % ({verdict}: < {TARGET_PERCENT:g} %); "
            f"{row['counting_microseconds']:.3g} µs to count messages, exported or not"
        )


def overhead(degree: int, iterations: int) -> dict[str, float]:
    """What an iteration pays."""
    peers = [f"site-{number}" for number in range(degree)]
    with tempfile.TemporaryDirectory() as directory:
        os.environ[DIRECTORY_VARIABLE] = directory
        hood = Neighborhood("site", 0.5, dict.fromkeys(peers, 0.5 / degree), tuple(peers))
        traffic = TrafficCounter(peers)
        sink = PrometheusSink("run", "dgd", "bench", iterations, [hood], traffic, 0.1, 0.5)
        counting, telling = zip(
            *(told_seconds(sink, traffic, peers, iteration) for iteration in range(iterations)), strict=True
        )
        pages = [page_seconds(sink) for _ in range(_PAGES)]
        sink.state(RunState.FINISHED)
    tell = statistics.median(telling)
    page = statistics.median(pages) * ITERATION_SECONDS / PAGE_SECONDS
    return {
        "neighbours": degree,
        "counting_microseconds": 1e6 * statistics.median(counting),
        "telling_microseconds": 1e6 * tell,
        "page_microseconds": 1e6 * page,
        "percent": 100 * (tell + page) / ITERATION_SECONDS,
        "iterations": iterations,
    }


def markdown_of(rows: list[dict[str, float]]) -> str:
    """The rows as the table of docs/performance.md."""
    lines = [
        "| neighbours | telling, µs | pages, µs | of an iteration, % | counting messages, µs |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    columns = ("telling_microseconds", "page_microseconds", "percent", "counting_microseconds")
    for row in rows:
        figures = " | ".join(f"{row[column]:.2g}" for column in columns)
        lines.append(f"| {row['neighbours']} | {figures} |")
    return "\n".join(lines) + "\n"


def page_seconds(sink: PrometheusSink) -> float:
    """CPU seconds of a page, which a state writes at once."""
    started = time.thread_time()
    sink.state(RunState.RUNNING)
    return time.thread_time() - started


def told_seconds(
    sink: PrometheusSink, traffic: TrafficCounter, peers: list[str], iteration: int
) -> tuple[float, float]:
    """Seconds to count the messages of an iteration that did its work, and to tell what it measured."""
    record = Iteration(iteration, 0.5, 0.1, 1e-3, 2e-4, 5e-4, 1e-4, 1e-4, 1e-4)
    ended = time.perf_counter() + ITERATION_SECONDS
    while time.perf_counter() < ended:
        pass
    started = time.perf_counter()
    for peer in peers:
        traffic.sent(peer, 1000)
        traffic.received(peer, 1000)
    counted = time.perf_counter()
    for peer in peers:
        traffic.waited(peer, 1e-4)
    sink.iteration(record)
    return counted - started, time.perf_counter() - counted


if __name__ == "__main__":
    main()
