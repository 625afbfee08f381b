"""``flaremesh report``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flaremesh.cli.options import AsJson
from flaremesh.cli.outputs import writable_folder


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run: build/<mesh>/runs/<run id>.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder to write to; default: report/ in the run's folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw a run, finished or not: PNGs and one page that holds them."""
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
