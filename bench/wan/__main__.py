"""Measures flaremesh on wide-area networks, beside gloo and bare TLS; writes wan.json and wan.md."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.processes import ROOT
from bench.wan import cases, namespaces, table
from bench.wan.measurement import Measurement


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.wan", description=__doc__)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--all", action="store_true", help="every case and every wire; about half an hour")
    choice.add_argument("--quick", action="store_true", help="the same code on little data")
    parser.add_argument("--sites", type=int, action="append", help="only this size; may be repeated")
    parser.add_argument("--way", action="append", help="only the network of this name; may be repeated")
    parser.add_argument(
        "--jobs",
        action="store_true",
        help="what needs NVFlare's server, too: the stock package, edges that meet beside it, and training",
    )
    parser.add_argument("--repeats", type=int, help="how often everything takes its turn")
    parser.add_argument("--congestion", default="cubic", help="TCP's congestion control, e.g. bbr")
    parser.add_argument("--output", type=Path, default=ROOT / "build/bench", help="folder")
    given = parser.parse_args(arguments)
    if reason := namespaces.unavailable():
        sys.exit(
            f"networks of its own cannot be made here: {reason}; root can, or unshare --user --map-root-user"
        )
    plan = cases.EVERYTHING if given.all else cases.QUICK if given.quick else cases.BOUNDED
    chosen = [
        case
        for case in plan
        if case.sites in (given.sites or [case.sites]) and case.way.name in (given.way or [case.way.name])
    ]
    if not chosen:
        sys.exit(
            f"there is no such case among {', '.join(f'{case.way.name}: {case.sites}' for case in plan)}"
        )
    wires = cases.ALL_WIRES if given.all or given.quick else cases.WIRES
    measurement = Measurement(chosen, wires, given.congestion, given.output / "wan", with_jobs=given.jobs)
    trials = list(measurement.trials())
    ways = {case.way.name: case.way for case in chosen}
    for turn in range(given.repeats or (1 if given.quick else 2)):
        measurement.repeat(turn)
        measurement.train(turn)
        markdown = _write(given.output, given.congestion, ways, trials, measurement)  # so far
    print(markdown)


def _write(
    folder: Path,
    congestion: str,
    ways: Mapping[str, cases.Way],
    trials: Sequence[Mapping[str, Any]],
    measurement: Measurement,
) -> str:
    """Write both files; returns what is in the readable one."""
    results, lines = measurement.results, measurement.lines
    rows = table.rows_of(results, ways)
    document = {
        "congestion": congestion,
        "trials": trials,
        "rows": [asdict(row) for row in rows],
        "results": [asdict(each) for each in results],
        "lines": lines,
        "trainings": measurement.trainings,
    }
    (folder / "wan.json").write_text(json.dumps(document, indent=1) + "\n")
    markdown = table.markdown_of(rows, results, trials, lines, measurement.trainings)
    (folder / "wan.md").write_text(markdown)
    return markdown


if __name__ == "__main__":
    main()
