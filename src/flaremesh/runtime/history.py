"""The history of a run at one site."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from flaremesh.metrics.sink import Evaluation, Iteration

T = TypeVar("T")


class History:
    """A metrics sink that keeps every record, in order."""

    def __init__(self) -> None:
        self.iterations: list[Iteration] = []
        self.evaluations: list[Evaluation] = []

    def iteration(self, record: Iteration) -> None:
        """Keep one iteration."""
        self.iterations.append(record)

    def evaluation(self, record: Evaluation) -> None:
        """Keep one evaluation."""
        self.evaluations.append(record)

    def write(self, path: Path) -> None:
        """Write one JSON object a line, ordered by iteration."""
        path.write_text("".join(json.dumps(row) + "\n" for row in self.rows()))

    def rows(self, limit: int | None = None) -> list[dict[str, Any]]:
        """The records as they are written; at most ``limit`` iterations and as many evaluations."""
        iterations = [_numbers(vars(record)) for record in thinned(self.iterations, limit)]
        evaluations = [
            {"iteration": record.iteration, "evaluation": _numbers(record.metrics)}
            for record in thinned(self.evaluations, limit)
        ]
        return sorted(iterations + evaluations, key=lambda row: row["iteration"])


def thinned(records: Sequence[T], limit: int | None) -> list[T]:
    """At most ``limit`` records, evenly spaced, the first and the last among them."""
    if limit is None or len(records) <= limit:
        return list(records)
    step = (len(records) - 1) / (limit - 1)
    return [records[round(i * step)] for i in range(limit)]


def _numbers(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """JSON has no NaN and no infinity: null instead."""
    return {name: value if value is None or math.isfinite(value) else None for name, value in values.items()}
