"""The report of a run: figures as PNG, and one page that holds everything."""

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from flaremesh.deploy import plots
from flaremesh.deploy.contraction import consensus_distance, fit_contraction
from flaremesh.deploy.plots import DARK, LIGHT, Theme
from flaremesh.deploy.results import Run, load_run


@dataclass(frozen=True)
class Report:
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


def write_report(folder: Path, output: Path) -> Report:
    """Draw a run, finished or not.

    Args:
        folder: a run folder.
        output: folder for ``index.html`` and the figures; it is created.

    Raises:
        RunFolderError: the folder holds no run, or a file in it is broken.
    """
    run = load_run(folder)
    distance = consensus_distance(run.histories.values())
    fit = fit_contraction(distance)
    fitted = fit.contraction if fit else None
    predicted = run.result.predicted_contraction
    draw: dict[str, Callable[[Theme], Figure | None]] = {
        "loss": lambda theme: plots.loss(run, theme),
        "accuracy": lambda theme: plots.accuracy(run, theme),
        "consensus": lambda theme: plots.consensus(distance, predicted, fit, theme),
        "graph": lambda theme: plots.graph(run, theme),
        "time": lambda theme: plots.time(run, theme),
    }
    light, dark = (
        {name: image for name, figure in draw.items() if (image := _png(figure, theme))}
        for theme in (LIGHT, DARK)
    )

    output.mkdir(parents=True, exist_ok=True)
    figures = {name: output / f"{name}.png" for name in light}
    for name, path in figures.items():
        path.write_bytes(light[name])
    page = output / "index.html"
    figure_of = {name: (_data_uri(light[name]), _data_uri(dark[name])) for name in light}
    page.write_text(_page(run, fitted, figure_of), encoding="utf-8")
    return Report(page, figures, predicted, fitted)


def _png(draw: Callable[[Theme], Figure | None], theme: Theme) -> bytes | None:
    with theme.applied():
        figure = draw(theme)
        if figure is None:
            return None
        image = io.BytesIO()
        figure.savefig(image, format="png")
    return image.getvalue()


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _page(run: Run, fitted: float | None, figures: Mapping[str, tuple[str, str]]) -> str:
    environment = Environment(
        loader=PackageLoader("flaremesh", "deploy"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["bytes"] = _bytes
    return environment.get_template("report.html.j2").render(run=run, fitted=fitted, figures=figures)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
