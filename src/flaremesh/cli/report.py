"""``flaremesh report``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flaremesh.cli.options import AsJson


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run: build/<mesh>/runs/<run id>.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder to write to; default: report/ in the folder of the run.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw a run: loss, accuracy, consensus distance against theory, graph, time; PNGs and one page."""
    from flaremesh.deploy.report import write_report

    written = write_report(run, output or run / "report")
    if as_json:
        document = {
            "page": str(written.page),
            "figures": {name: str(path) for name, path in written.figures.items()},
            "predicted_contraction": written.predicted_contraction,
            "fitted_contraction": written.fitted_contraction,
        }
        typer.echo(json.dumps(document, indent=2))
        return
    typer.echo(str(written.page))
    if written.fitted_contraction is not None:
        beside = (
            ""
            if written.predicted_contraction is None
            else f", predicted {written.predicted_contraction:.4f}"
        )
        typer.echo(
            f"consensus distance: measured contraction {written.fitted_contraction:.4f} per iteration{beside}"
        )
