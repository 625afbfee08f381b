"""The history of a run at one site."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from flaremesh.metrics.sink import Evaluation, Iteration, Norms

T = TypeVar("T")


class History:
    """A metrics sink that keeps every record and, given a path, writes each as one line of JSON at once.

    Use it as a context manager, so that the file is complete however the run ends.

    Attributes:
        iterations: records of the iterations.
        evaluations: records of the evaluations.
    """

    def __init__(self, path: Path | None = None):
        self.iterations: list[Iteration] = []
        self.evaluations: list[Evaluation] = []
        self._file = path.open("w", buffering=1) if path else None

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

    def iteration(self, record: Iteration) -> None:
        """See MetricsSink.iteration."""
        self.iterations.append(record)
        self._write(_iteration_row(record))

    def evaluation(self, record: Evaluation) -> None:
        """See MetricsSink.evaluation."""
        self.evaluations.append(record)
        self._write(_evaluation_row(record))

    def norms(self, record: Norms) -> None:
        """Not kept."""

    def thinned(self, limit: int) -> list[dict[str, Any]]:
        """At most ``limit`` iterations and ``limit`` evaluations, as they are written, in their order."""
        rows = [_iteration_row(record) for record in evenly_spaced(self.iterations, limit)]
        rows += [_evaluation_row(record) for record in evenly_spaced(self.evaluations, limit)]
        return sorted(rows, key=lambda row: row["iteration"])

    def _write(self, row: dict[str, Any]) -> None:
        if self._file:
            self._file.write(json.dumps(row) + "\n")


def evenly_spaced(records: Sequence[T], limit: int) -> list[T]:
    """At most ``limit`` (two or more) of the records, the first and the last among them."""
    if len(records) <= limit:
        return list(records)
    step = (len(records) - 1) / (limit - 1)
    return [records[round(i * step)] for i in range(limit)]


def finite_or_none(value: float | None) -> float | None:
    """JSON has no NaN and no infinity: None instead."""
    return value if value is not None and math.isfinite(value) else None


def _iteration_row(record: Iteration) -> dict[str, Any]:
    return _jsonable(vars(record))


def _evaluation_row(record: Evaluation) -> dict[str, Any]:
    return {"iteration": record.iteration, "evaluation": _jsonable(record.metrics)}


def _jsonable(values: Mapping[str, float | None]) -> dict[str, Any]:
    return {name: finite_or_none(value) for name, value in values.items()}
