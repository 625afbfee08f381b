"""Which tests were skipped, and what brings what they lack: with this `make test` ends.

Every pytest of a `make test` adds to the file that SKIPPED_TESTS names. As a program this prints it.
"""

import json
import os
import sys
from pathlib import Path

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a test that is skipped, once: workers report to the process that started them."""
    notes = os.environ.get("SKIPPED_TESTS")
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if notes and skipped and "PYTEST_XDIST_WORKER" not in os.environ:
        *_, reason = report.longrepr
        with Path(notes).open("a") as file:
            file.write(json.dumps([reason.removeprefix("Skipped: "), report.nodeid]) + "\n")


def summary(notes: Path) -> str:
    lines = notes.read_text().splitlines() if notes.exists() else []
    if not lines:
        return "No test was skipped."
    by_reason: dict[str, list[str]] = {}
    for reason, test in map(json.loads, lines):
        by_reason.setdefault(reason, []).append(test)
    paragraphs = ("\n    ".join([reason, *tests]) for reason, tests in by_reason.items())
    count = "1 test was" if len(lines) == 1 else f"{len(lines)} tests were"
    return "\n  ".join([f"{count} skipped.", *paragraphs])


if __name__ == "__main__":
    sys.stdout.write(f"\n{summary(Path(sys.argv[1]))}\n")
