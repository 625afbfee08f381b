"""Questions to a Prometheus, or to anything that speaks its HTTP interface."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flaremesh.deploy.proxies import remark
from flaremesh.deploy.targets.base import DeployError

DEFAULT_URL = "http://127.0.0.1:9090"
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
    """Answers PromQL; every method raises DeployError when there is no answer.

    Args:
        url: where it serves, its path prefix included.
        timeout: seconds for an answer.

    Attributes:
        url: as given, without a slash at its end.
    """

    def __init__(self, url: str = DEFAULT_URL, timeout: float = _SECONDS):
        self.url = url.rstrip("/")
        try:
            self._host = urllib.parse.urlsplit(url).hostname or ""
        except ValueError as error:
            raise DeployError(f"{url} is no URL: {error}") from None
        self._timeout = timeout

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
        try:
            with urllib.request.urlopen(url, timeout=self._timeout) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise DeployError(f"{self.url} refuses {given}: {_reason(error)}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DeployError(
                f"no Prometheus answers at {self.url}: {error}; start one with `flaremesh monitor`, "
                f"or name another with --prometheus.{remark(self._host)}"
            ) from error


def _series(result: Mapping[str, Any]) -> list[Series]:
    return [_of_pairs(series["metric"], series["values"]) for series in result["result"]]


def _of_pairs(labels: Mapping[str, str], pairs: Sequence[tuple[float, str]]) -> Series:
    times, values = zip(*pairs, strict=True)
    return Series(labels, np.array(times, dtype=np.float64), np.array(values, dtype=np.float64))


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code} {error.reason}"
