"""What became of all faults: build/chaos/table.md for people, table.json for programs."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

_COLUMNS = {
    "fault": "fault",
    "algorithm": "algorithm",
    "wire": "wire",
    "seed": "seed",
    "run": "run",
    "iteration": "iteration",
    "promised": "promised",
    "outcome": "outcome",
    "recovery_seconds": "s to the next iteration",
    "mending_seconds": "of them until what was struck was there again",
    "ending_seconds": "of them until the last attempt was submitted",
    "told_seconds": "s until it was told",
    "attempts": "further attempts",
    "began_at": "from the checkpoint of",
    "load": "load of the machine",
    "remark": "remark",
}

_BY_FAULT = (
    "fault",
    "as promised",
    "median s to the next iteration",
    "worst",
    "worst once what was struck was there again",
    "its limit",
    "median s in which NVFlare ended the job",
)


@dataclass
class Row:
    """A fault, and what became of the run.

    Attributes:
        run: number of the run; with the seed it says all that happened.
        iteration: at which it struck.
        limit_seconds: for the recovery, from when what was struck was there again.
        outcome: ``as promised``, or what differs.
        recovery_seconds: from the fault until the run was further than before; None if that never came.
        mending_seconds: until what was struck was there again, a restart for instance.
        ending_seconds: until the server submitted the last further attempt: NVFlare had ended the job before.
        told_seconds: until the user was told of a loss; None where there is nothing to tell.
        attempts: further ones that it took.
        began_at: the iteration from whose checkpoint the last of them began.
        load: average number of processes that wanted to run in the last minute, on the whole machine.
    """

    fault: str
    algorithm: str
    wire: str
    seed: int
    run: int
    iteration: int
    promised: str
    limit_seconds: float
    outcome: str = ""
    recovery_seconds: float | None = None
    mending_seconds: float = 0.0
    ending_seconds: float | None = None
    told_seconds: float | None = None
    attempts: int = 0
    began_at: int | None = None
    load: float = 0.0
    remark: str = ""


class Table:
    """The rows of a suite, which are written whenever one is added: who looks early sees some.

    Args:
        folder: where they are written.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self.rows: list[Row] = []

    def add(self, rows: Sequence[Row]) -> None:
        self.rows.extend(rows)
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "table.json").write_text(json.dumps([asdict(row) for row in self.rows], indent=1))
        (self._folder / "table.md").write_text(f"{self._by_fault()}\n\n{self._all()}\n")

    def _by_fault(self) -> str:
        groups: defaultdict[str, list[Row]] = defaultdict(list)
        for row in self.rows:
            groups[row.fault].append(row)
        return _markdown(_BY_FAULT, [[fault, *_summary(rows)] for fault, rows in sorted(groups.items())])

    def _all(self) -> str:
        rows = [[_cell(asdict(row)[name]) for name in _COLUMNS] for row in self.rows]
        return _markdown(list(_COLUMNS.values()), rows)


def _summary(rows: Sequence[Row]) -> list[str]:
    recovered = [row for row in rows if row.recovery_seconds is not None]
    seconds = [row.recovery_seconds or 0.0 for row in recovered]
    once_mended = [(row.recovery_seconds or 0.0) - row.mending_seconds for row in recovered]
    ends = [row.ending_seconds for row in rows if row.ending_seconds is not None]
    return [
        f"{sum(row.outcome == 'as promised' for row in rows)} of {len(rows)}",
        *(_cell(of(values) if values else None) for of, values in ((median, seconds), (max, seconds))),
        _cell(max(once_mended, default=None)),
        f"{max(row.limit_seconds for row in rows):.0f}",
        _cell(median(ends) if ends else None),
    ]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return _seconds(value)
    return "" if value is None else str(value)


def _seconds(value: float) -> str:
    return f"{value:.1f}"


def _markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
