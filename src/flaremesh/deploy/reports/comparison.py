"""Several runs beside each other: one page with a table, and figures with a line for each run."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from flaremesh.deploy.reports.contraction import consensus_distance
from flaremesh.deploy.reports.page import page, picture
from flaremesh.deploy.reports.plots import DRAWABLE
from flaremesh.deploy.reports.style import Theme, line_style, titled_axes
from flaremesh.deploy.runs.results import RecordedRun, load_run
from flaremesh.runtime.history import History
from flaremesh.runtime.until import falls

Curve = dict[int, float]
"""A value by iteration."""


@dataclass(frozen=True)
class Compared:
    """A run as a row of the table has it.

    Attributes:
        name: of the run, with its id where several have the same name.
        run: the run.
        iterations: that all sites have done.
        metrics: of the sites' last evaluations, the worst value of each.
        curves: by what they show: the mean loss, the accuracy at the worst site, and the consensus distance
            ‖(I − W)X‖.
        sent_bytes: by the site that sent most, of what is known.
        seconds: of the run at the server; None where nobody knows.
    """

    name: str
    run: RecordedRun
    iterations: int
    metrics: Mapping[str, float]
    curves: Mapping[str, Curve]
    sent_bytes: int
    seconds: float | None


def write_comparison(folders: Sequence[Path], output: Path) -> Path:
    """Write a page that compares runs, finished or not.

    Args:
        folders: of the runs.
        output: folder for ``index.html``; it is created.

    Returns:
        The page.

    Raises:
        RecordError: a folder holds no run, or a file in it is broken.
    """
    runs = [load_run(folder) for folder in folders]
    names = Counter(run.result.name for run in runs)
    rows = [
        _compared(run, run.result.name if names[run.result.name] == 1 else _long_name(run)) for run in runs
    ]
    shown = {what: partial(_figure, rows, what) for what in _CURVES}
    pictures = {what: drawn for what, draw in shown.items() if (drawn := picture(draw))}
    output.mkdir(parents=True, exist_ok=True)
    index = output / "index.html"
    index.write_text(page("comparison.html.j2", rows=rows, pictures=pictures), encoding="utf-8")
    return index


def _long_name(run: RecordedRun) -> str:
    return f"{run.result.name} {run.result.run_id[:8]}"


def _compared(run: RecordedRun, name: str) -> Compared:
    result = run.result
    sites = [site for site in run.histories if site not in result.missing]
    histories = [run.histories[site] for site in sites]
    last = [history.last_metrics for history in histories]
    metrics = [metric for metric in (last[0] if last else ()) if all(metric in one for one in last)]
    return Compared(
        name,
        run,
        min((history.last_iteration for history in histories), default=0),
        {metric: (max if falls(metric) else min)(one[metric] for one in last) for metric in metrics},
        {what: curve(histories) for what, curve in _CURVES.items()},
        max((sum(site.sent_bytes.values()) for site in result.sites.values()), default=0),
        result.seconds,
    )


def _mean_loss(histories: Sequence[History]) -> Curve:
    evaluated = _by_iteration(histories, partial(_evaluated, "loss"), np.mean)
    return evaluated or _by_iteration(histories, _trained, np.mean)


def _worst_accuracy(histories: Sequence[History]) -> Curve:
    return _by_iteration(histories, partial(_evaluated, "accuracy"), np.min)


def _distance(histories: Sequence[History]) -> Curve:
    distance = consensus_distance(histories)
    return dict(zip(distance.iterations.tolist(), distance.values.tolist(), strict=True))


_CURVES: Mapping[str, Callable[[Sequence[History]], Curve]] = {
    "mean loss": _mean_loss,
    "accuracy at the worst site": _worst_accuracy,
    "consensus distance": _distance,
}


def _evaluated(metric: str, history: History) -> Curve:
    return {e.iteration: e.metrics[metric] for e in history.evaluations if metric in e.metrics}


def _trained(history: History) -> Curve:
    return {r.iteration: r.loss for r in history.iterations if r.loss is not None}


def _by_iteration(
    histories: Sequence[History],
    of: Callable[[History], Curve],
    combine: Callable[[NDArray[np.float64]], float],
) -> Curve:
    """Over the sites, in the iterations of which all have a value."""
    curves = [of(history) for history in histories]
    shared = sorted(set.intersection(*map(set, curves))) if curves else []
    return {at: float(combine(np.array([curve[at] for curve in curves]))) for at in shared}


def _figure(rows: Sequence[Compared], what: str, theme: Theme) -> Figure | None:
    """A line for each run; one that diverges ends where its numbers do."""
    figure, axes = titled_axes(what.capitalize(), y=what)
    positive = True
    for number, row in enumerate(rows):
        points = [(at, value) for at, value in row.curves[what].items() if abs(value) < DRAWABLE]
        if points:
            axes.plot(*zip(*points, strict=True), label=row.name, **line_style(number))
            positive &= what != "accuracy at the worst site" and min(value for _, value in points) > 0
    if not axes.lines:
        return None
    if positive:
        axes.set_yscale("log")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=3, borderaxespad=0.2, handlelength=2.6)
    return figure
