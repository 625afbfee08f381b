"""Questions to a Prometheus; whatever keeps it from answering is raised as it comes."""

import json
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SECONDS = 30.0


@dataclass(frozen=True)
class Sample:
    """One series at one moment."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Series:
    """One series over time.

    Attributes:
        labels: its labels.
        times: (m,) Unix time, seconds.
        values: (m,).
    """

    labels: Mapping[str, str]
    times: NDArray[np.float64]
    values: NDArray[np.float64]


class Prometheus:
    """Answers PromQL.

    Args:
        url: where it serves, without a slash at its end.
    """

    def __init__(self, url: str):
        self.url = url

    def query(self, expression: str, at: float | None = None) -> list[Sample]:
        """What an instant vector or a number is at a moment, now by default."""
        result = self._get("query", query=expression, time=at)
        if result["resultType"] == "scalar":
            return [Sample({}, float(result["result"][1]))]
        return [Sample(series["metric"], float(series["value"][1])) for series in result["result"]]

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[Series]:
        """What an expression was every ``step`` seconds from ``start`` to ``end``."""
        return _series(self._get("query_range", query=expression, start=start, end=end, step=step))

    def scraped(self, selector: str, at: float | None = None) -> list[Series]:
        """The samples of a range selector such as ``up[5m]`` as they were scraped."""
        return _series(self._get("query", query=selector, time=at))

    def label_values(self, label: str, selector: str, start: float, end: float) -> list[str]:
        """The values of a label among the series that a selector finds between two moments, sorted."""
        values: list[str] = self._get(f"label/{label}/values", start=start, end=end, **{"match[]": selector})
        return sorted(values)

    def _get(self, what: str, **parameters: str | float | None) -> Any:
        given = {name: value for name, value in parameters.items() if value is not None}
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(given)}"
        with urllib.request.urlopen(url, timeout=_SECONDS) as reply:
            return json.load(reply)["data"]


def _series(result: Mapping[str, Any]) -> list[Series]:
    return [
        Series(series["metric"], *np.array(series["values"], dtype=np.float64).T)
        for series in result["result"]
    ]
