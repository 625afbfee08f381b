"""The history of a run at one site: ``history.jsonl``, one record a line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Self, TypeAlias, TypeVar

from pydantic import Discriminator, Tag
from typing_extensions import override

from flaremesh.metrics.sink import Evaluation, Iteration, MetricsSink, Norms
from flaremesh.record import RecordError, Schema

HISTORY: Final = "history.jsonl"
"""Name of the file, in a run's folder at its site and in the copies of that folder."""

T = TypeVar("T")


def _kind(record: object) -> str:
    if isinstance(record, Mapping):
        return "evaluation" if record.keys() & {"metrics", "evaluation"} else "iteration"
    return "evaluation" if isinstance(record, Evaluation) else "iteration"


Record: TypeAlias = Annotated[
    Annotated[Iteration, Tag("iteration")] | Annotated[Evaluation, Tag("evaluation")], Discriminator(_kind)
]
"""A line of a history: an evaluation where it has ``metrics``, else an iteration."""

_RECORD: Schema[Iteration | Evaluation] = Schema(Record, "a record of a history")


class History(MetricsSink):
    """A metrics sink that keeps every record and, given a path, writes each as one line of JSON at once.

    Use it as a context manager, so that the file is complete however the run ends.

    Attributes:
        iterations: records of the iterations.
        evaluations: records of the evaluations.
    """

    def __init__(self, path: Path | None = None):
        self.iterations: list[Iteration] = []
        self.evaluations: list[Evaluation] = []
        self._file = path.open("w", buffering=1, encoding="utf-8") if path else None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file; a last line that the end of the site's process cut off is dropped.

        Raises:
            RecordError: a line is no record.
        """
        history = cls()
        lines = path.read_bytes().splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            try:
                history.add(_RECORD.read(line, f"{path}, line {number},"))
            except RecordError:
                if line.endswith(b"\n"):
                    raise
        return history

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()

    @property
    def last_iteration(self) -> int:
        """How many iterations are done."""
        return self.iterations[-1].iteration if self.iterations else 0

    @property
    def last_metrics(self) -> dict[str, float]:
        """Metrics of the last evaluation, {} before the first."""
        return dict(self.evaluations[-1].metrics) if self.evaluations else {}

    def add(self, record: Iteration | Evaluation) -> None:
        """Keep a record, and write it where there is a file."""
        if isinstance(record, Evaluation):
            self.evaluations.append(record)
        else:
            self.iterations.append(record)
        if self._file:
            self._file.write(_RECORD.json(record) + "\n")

    @override
    def iteration(self, record: Iteration) -> None:
        self.add(record)

    @override
    def evaluation(self, record: Evaluation) -> None:
        self.add(record)

    @override
    def norms(self, record: Norms) -> None:
        """Not kept."""

    def thinned(self, limit: int) -> list[Iteration | Evaluation]:
        """At most ``limit`` iterations and ``limit`` evaluations, in the order of their iterations."""
        records: list[Iteration | Evaluation] = [
            *evenly_spaced(self.iterations, limit),
            *evenly_spaced(self.evaluations, limit),
        ]
        return sorted(records, key=lambda record: record.iteration)


def evenly_spaced(records: Sequence[T], limit: int) -> list[T]:
    """At most ``limit`` (two or more) of the records, the first and the last among them."""
    if len(records) <= limit:
        return list(records)
    step = (len(records) - 1) / (limit - 1)
    return [records[round(i * step)] for i in range(limit)]
