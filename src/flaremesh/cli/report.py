"""``flaremesh report``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flaremesh.cli.options import AsJson
from flaremesh.cli.outputs import writable_folder


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN…", help="Folder of a run, build/<mesh>/runs/<run id>; several: compare them."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Folder to write to; default: report/ in the run's folder.")
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write the histories there for TensorBoard, and draw nothing."),
    ] = None,
    mlflow: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Log the histories to this MLflow store, and draw nothing."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw a run, finished or not: PNGs and one page that holds them. Or compare several runs."""
    if tensorboard or mlflow:
        _hand_over(runs, tensorboard, mlflow)
    elif len(runs) > 1:
        _compare(runs, output, as_json=as_json)
    else:
        _draw(runs[0], output, as_json=as_json)


def _draw(run: Path, output: Path | None, *, as_json: bool) -> None:
    from flaremesh.deploy.reports.report import write_report

    written = write_report(run, writable_folder(output or run / "report"))
    measured, predicted = written.fitted_contraction, written.predicted_contraction
    if as_json:
        document = {
            "page": str(written.page),
            "figures": {name: str(path) for name, path in written.figures.items()},
            "predicted_contraction": predicted,
            "fitted_contraction": measured,
        }
        typer.echo(json.dumps(document, indent=2))
        return
    typer.echo(written.page)
    if measured is not None:
        beside = "" if predicted is None else f", predicted {predicted:.4f}"
        typer.echo(f"consensus distance: measured contraction {measured:.4f} per iteration{beside}")


def _compare(runs: list[Path], output: Path | None, *, as_json: bool) -> None:
    from flaremesh.deploy.reports.comparison import write_comparison

    if output is None:
        raise typer.BadParameter("name the folder for the page that compares the runs", param_hint="--output")
    written = write_comparison(runs, writable_folder(output))
    typer.echo(json.dumps({"page": str(written)}) if as_json else written)


def _hand_over(runs: list[Path], tensorboard: Path | None, mlflow: str | None) -> None:
    from flaremesh.deploy.reports import tracking

    for run in runs:
        if tensorboard:
            files = tracking.to_tensorboard(run, writable_folder(tensorboard))
            typer.echo(f"{run}: {len(files)} sites, for `tensorboard --logdir {tensorboard}`")
        if mlflow:
            ids = tracking.to_mlflow(run, mlflow)
            typer.echo(f"{run}: {len(ids)} sites, at {mlflow}")
