"""The dashboards of a mesh without Grafana: what they show now, as pictures of the same queries."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from flaremesh.deploy.reports.boards import Board, Target, Variable, boards
from flaremesh.deploy.reports.page import Picture, page, picture
from flaremesh.deploy.reports.prometheus import Prometheus, Sample, Series
from flaremesh.deploy.targets.base import DeployError

_POINTS = 240
_SCRAPE_SECONDS = 15.0
_SCRAPES = "600s"


@dataclass(frozen=True)
class Window:
    """The time that is shown.

    Attributes:
        start: Unix time, seconds.
        end: Unix time, seconds.
        scrape: seconds between two scrapes.
    """

    start: float
    end: float
    scrape: float

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end - self.start

    @property
    def step(self) -> float:
        """Seconds between two points of a curve."""
        return max(self.seconds / _POINTS, self.scrape)

    @property
    def rate(self) -> float:
        """Seconds that a rate is taken over; like Grafana's, it holds four scrapes at least."""
        return max(self.step + self.scrape, 4 * self.scrape)


@dataclass(frozen=True)
class Reading:
    """What a query found: curves, or samples where it asks for one moment.

    Attributes:
        target: the query.
        curves: empty for a query for one moment.
        samples: empty for a query for curves.
    """

    target: Target
    curves: Sequence[Series] = ()
    samples: Sequence[Sample] = ()

    def name(self, labels: Mapping[str, str]) -> str:
        """How the query wants a series to be called."""
        return re.sub(
            r"\{\{\s*(\w+)\s*\}\}", lambda match: labels.get(match[1], ""), self.target.legend_format
        ).strip()


@dataclass(frozen=True)
class LiveReport:
    """What was written.

    Attributes:
        page: the page that holds everything.
        figures: PNG files by the dashboard's name.
        mesh: the mesh that is shown.
        run: the run that is shown, None where there is none.
    """

    page: Path
    figures: Mapping[str, Path]
    mesh: str
    run: str | None


class Reader:
    """Reads dashboards as Grafana does: chooses a value for each variable, puts it in, asks.

    Args:
        prometheus: whom to ask.
        last: seconds to show.
        given: values of variables by name; the first of those that there are stands in for others.
        end: Unix time at which the time shown ends, now by default.

    Raises:
        DeployError: Prometheus does not answer.
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
        end = time.time() if end is None else end
        self.window = Window(end - last, end, _scrape_seconds(prometheus, end))

    def choices(self, board: Board) -> dict[str, str]:
        """A value for each variable; that of a run is empty where there is none.

        Raises:
            DeployError: there is no mesh, none or several to choose from, or none with the name given.
        """
        chosen: dict[str, str] = {}
        for variable in board.templating.variables:
            if variable.type == "query":
                chosen[variable.name] = self._choose(variable, chosen)
        return chosen

    def options(self, variable: Variable, chosen: Mapping[str, str]) -> list[str]:
        """The values that a variable may take."""
        query = self._put_in(variable.query, chosen)
        if of_label := re.fullmatch(r"label_values\((.*), (\w+)\)", query):
            return self._prometheus.label_values(of_label[2], of_label[1], self.window.start, self.window.end)
        of_series = re.fullmatch(r"query_result\((.*)\)", query)
        assert of_series, f"{variable.name} is of neither kind that our dashboards have: {query}"
        expression = of_series[1]
        (label,) = re.findall(r"(\w+)=", variable.regex)
        return [sample.labels[label] for sample in self._prometheus.query(expression, self.window.end)]

    def ask(self, target: Target, chosen: Mapping[str, str]) -> Reading:
        """What a query finds."""
        if not target.instant:
            return Reading(target, curves=self.curves(target.expr, chosen))
        expression = self._put_in(target.expr, chosen)
        return Reading(target, samples=self._prometheus.query(expression, self.window.end))

    def curves(self, expression: str, chosen: Mapping[str, str]) -> list[Series]:
        """What an expression was in the time shown."""
        window = self.window
        return self._prometheus.query_range(
            self._put_in(expression, chosen), window.start, window.end, window.step
        )

    def _choose(self, variable: Variable, chosen: Mapping[str, str]) -> str:
        given = self._given.get(variable.name)
        if given is None and variable.all_value:
            return variable.all_value
        options = self.options(variable, chosen)
        what = variable.label.lower()
        if given is not None:
            if given not in options:
                raise DeployError(
                    f"there is no {what} {given} in the time shown; there is {_listed(options)}"
                )
            return given
        if variable.name == "mesh" and len(options) != 1:
            raise DeployError(
                f"name one mesh with --mesh: there is {_listed(options)}"
                if options
                else "Prometheus has seen no mesh in the time shown; is it the one that scrapes it?"
            )
        return options[0] if options else ""

    def _put_in(self, text: str, chosen: Mapping[str, str]) -> str:
        known = {
            "__rate_interval": f"{self.window.rate:.0f}s",
            "__range": f"{self.window.seconds:.0f}s",
            **chosen,
        }
        return re.sub(r"\$(\w+)", lambda match: known[match[1]], text)


def write_live_report(
    prometheus: Prometheus,
    last: float,
    output: Path | None = None,
    mesh: str | None = None,
    run: str | None = None,
) -> LiveReport:
    """Draw what the dashboards show now.

    Args:
        prometheus: whom to ask.
        last: seconds to show.
        output: folder for ``index.html`` and the pictures, ``build/<mesh>/live`` by default; it is created.
        mesh: its name; the only one by default.
        run: its id; the newest by default.

    Raises:
        DeployError: Prometheus does not answer, or knows no such mesh or run.
    """
    from flaremesh.deploy.reports.panels import draw

    given = {name: value for name, value in {"mesh": mesh, "run": run}.items() if value is not None}
    reader = Reader(prometheus, last, given)
    shown: dict[str, tuple[Board, Picture]] = {}
    chosen: dict[str, str] = {}
    for name, board in boards().items():
        chosen |= (choices := reader.choices(board))
        readings = [[reader.ask(target, choices) for target in panel.targets] for panel in board.panels]
        drawn = picture(partial(draw, board, readings, reader.window))
        assert drawn is not None, "a dashboard has panels"
        shown[name] = board, drawn

    output = output or Path("build") / chosen["mesh"] / "live"
    output.mkdir(parents=True, exist_ok=True)
    figures = {name: output / f"{name}.png" for name in shown}
    for name, path in figures.items():
        path.write_bytes(shown[name][1].light)
    index = output / "index.html"
    content = {"shown": shown, "mesh": chosen["mesh"], "run": chosen["run"], "window": reader.window}
    index.write_text(page("live.html.j2", **content), encoding="utf-8")
    return LiveReport(index, figures, chosen["mesh"], chosen["run"] or None)


def _scrape_seconds(prometheus: Prometheus, end: float) -> float:
    gaps = [np.diff(series.times) for series in prometheus.scraped(f'up{{job="flaremesh"}}[{_SCRAPES}]', end)]
    known = np.concatenate(gaps) if gaps else np.array([])
    return float(np.median(known)) if known.size else _SCRAPE_SECONDS


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
