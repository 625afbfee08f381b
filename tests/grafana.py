"""The dashboards of the monitoring chart, asked as Grafana asks them."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from flaremesh.provision.releases import DASHBOARDS
from promql import Prometheus, Sample, Series

_POINTS = 240
_SCRAPES = "600s"


class _Read(BaseModel):
    """The parts of a dashboard's JSON that are read here."""

    model_config = ConfigDict(alias_generator=to_camel, frozen=True)


class Query(_Read):
    """One query of a panel."""

    expr: str
    instant: bool = False


class Panel(_Read):
    """A panel, or the heading of a row, which asks nothing."""

    title: str
    queries: tuple[Query, ...] = Field(alias="targets", default=())


class Variable(_Read):
    """What a reader chooses."""

    name: str
    type: Literal["datasource", "query"]
    query: Any
    regex: str = ""
    all_value: str | None = None


class Templating(_Read):
    """The variables."""

    variables: tuple[Variable, ...] = Field(alias="list")


class Annotation(_Read):
    """A query for what happened when."""

    expr: str


class Annotations(_Read):
    """The annotations."""

    queries: tuple[Annotation, ...] = Field(alias="list")


class Board(_Read):
    """A dashboard."""

    panels: tuple[Panel, ...]
    templating: Templating
    annotations: Annotations

    @property
    def variables(self) -> list[Variable]:
        """Those that are read from Prometheus."""
        return [variable for variable in self.templating.variables if variable.type == "query"]


def boards() -> dict[str, Board]:
    """The dashboards by their files' names."""
    return {file.stem: Board.model_validate_json(file.read_bytes()) for file in sorted(DASHBOARDS.iterdir())}


@dataclass(frozen=True)
class Answer:
    """What a query found: curves, or samples where it asks for one moment."""

    curves: Sequence[Series] = ()
    samples: Sequence[Sample] = ()


class Grafana:
    """Chooses a value for each variable, puts it in, asks.

    Args:
        prometheus: whom to ask.
        last: seconds to show.
        given: values of variables by name; the first of those that there are stands in for others.
        end: Unix time at which the time shown ends, now by default.
    """

    def __init__(
        self,
        prometheus: Prometheus,
        last: float,
        given: Mapping[str, str] | None = None,
        end: float | None = None,
    ):
        self._prometheus = prometheus
        self._given = given or {}
        self._end = time.time() if end is None else end
        self._start = self._end - last
        scrape = _scrape_seconds(prometheus, self._end)
        self._step = max(last / _POINTS, scrape)
        self._known = {
            "__rate_interval": f"{max(self._step + scrape, 4 * scrape):.0f}s",
            "__range": f"{last:.0f}s",
        }

    def choices(self, board: Board) -> dict[str, str]:
        """A value for each variable of a dashboard."""
        chosen = dict(self._given)
        for variable in board.variables:
            if variable.name not in chosen:
                chosen[variable.name] = variable.all_value or self.options(variable, chosen)[0]
        return chosen

    def options(self, variable: Variable, chosen: Mapping[str, str]) -> list[str]:
        """The values that a variable may take."""
        query = self._put_in(variable.query, chosen)
        if of_label := re.fullmatch(r"label_values\((.*), (\w+)\)", query):
            return self._prometheus.label_values(of_label[2], of_label[1], self._start, self._end)
        of_series = re.fullmatch(r"query_result\((.*)\)", query)
        assert of_series, f"{variable.name} is of neither kind that our dashboards have: {query}"
        (label,) = re.findall(r"(\w+)=", variable.regex)
        return [sample.labels[label] for sample in self._prometheus.query(of_series[1], self._end)]

    def ask(self, query: Query, chosen: Mapping[str, str]) -> Answer:
        """What a query finds."""
        if not query.instant:
            return Answer(curves=self.curves(query.expr, chosen))
        return Answer(samples=self._prometheus.query(self._put_in(query.expr, chosen), self._end))

    def curves(self, expression: str, chosen: Mapping[str, str]) -> list[Series]:
        """What an expression was in the time shown."""
        expression = self._put_in(expression, chosen)
        return self._prometheus.query_range(expression, self._start, self._end, self._step)

    def _put_in(self, text: str, chosen: Mapping[str, str]) -> str:
        return re.sub(r"\$(\w+)", lambda match: ({**self._known, **chosen})[match[1]], text)


def _scrape_seconds(prometheus: Prometheus, end: float) -> float:
    """Between two scrapes: the time over which rates are taken holds four of them, as Grafana's does."""
    scraped = prometheus.scraped(f'up{{job="flaremesh"}}[{_SCRAPES}]', end)
    return float(np.median(np.concatenate([np.diff(series.times) for series in scraped])))
