"""The report of a run: figures as PNG, and one page that holds everything."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flaremesh.deploy.reports import graph_plot, plots
from flaremesh.deploy.reports.contraction import consensus_distance, fit_contraction
from flaremesh.deploy.reports.page import Draw, page, picture
from flaremesh.deploy.runs.results import load_run
from flaremesh.p2p.outcome import absences


@dataclass(frozen=True)
class WrittenReport:
    """What was written.

    Attributes:
        page: the page that holds everything.
        figures: PNG files by what they show.
        predicted_contraction: per iteration by mixing alone, None where theory has none.
        fitted_contraction: per iteration as measured, None where the distance does not fall geometrically.
    """

    page: Path
    figures: Mapping[str, Path]
    predicted_contraction: float | None
    fitted_contraction: float | None


def write_report(folder: Path, output: Path) -> WrittenReport:
    """Draw a run, finished or not.

    Args:
        folder: a run folder.
        output: folder for ``index.html`` and the figures; it is created.

    Raises:
        RecordError: the folder holds no run, or a file in it is broken.
    """
    run = load_run(folder)
    distance = consensus_distance(
        history for site, history in run.histories.items() if site not in run.result.missing
    )
    fit = fit_contraction(distance)
    fitted = fit.contraction if fit else None
    predicted = run.result.predicted_contraction
    draw: dict[str, Draw] = {
        "loss": lambda theme: plots.loss(run, theme),
        "accuracy": lambda theme: plots.accuracy(run, theme),
        "consensus": lambda theme: plots.consensus(run, distance, fit, theme),
        "logged": lambda theme: plots.logged(run, theme),
        "graph": lambda theme: graph_plot.graph(run, theme),
        "time": lambda theme: plots.time(run, theme),
    }
    pictures = {name: drawn for name, figure in draw.items() if (drawn := picture(figure))}

    output.mkdir(parents=True, exist_ok=True)
    figures = {name: output / f"{name}.png" for name in pictures}
    for name, path in figures.items():
        path.write_bytes(pictures[name].light)
    index = output / "index.html"
    away = absences(run.result.members)
    told = page("report.html.j2", run=run, fitted=fitted, pictures=pictures, absences=away)
    index.write_text(told, encoding="utf-8")
    return WrittenReport(index, figures, predicted, fitted)
