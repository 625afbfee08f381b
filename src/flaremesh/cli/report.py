"""``flaremesh report``."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from flaremesh.cli.options import AsJson
from flaremesh.cli.outputs import writable_folder
from flaremesh.deploy.reports.prometheus import DEFAULT_URL

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def report(
    run: Annotated[
        Path | None, typer.Argument(help="Folder of a run: build/<mesh>/runs/<run id>.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder to write to; default: report/ in the run's folder, or build/<mesh>/live."),
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Draw the dashboards of a mesh instead.")] = False,
    prometheus: Annotated[str, typer.Option(help="With --live: whom to ask.")] = DEFAULT_URL,
    last: Annotated[
        str, typer.Option(help="With --live: how much time to show, e.g. 90s, 15m or 2h.")
    ] = "15m",
    mesh: Annotated[str | None, typer.Option(help="With --live: the mesh; default: the only one.")] = None,
    run_id: Annotated[str | None, typer.Option(help="With --live: the run; default: the newest.")] = None,
    as_json: AsJson = False,
) -> None:
    """Draw a run, or live what the dashboards show: PNGs and one page that holds them."""
    if (run is None) != live:
        raise typer.BadParameter("give either the folder of a run or --live")
    written = (
        _of_live(prometheus, _seconds(last), output, mesh, run_id) if run is None else _of_run(run, output)
    )
    if as_json:
        typer.echo(json.dumps({name: value for name, value in written.items() if name != "said"}, indent=2))
        return
    typer.echo(written["page"])
    if said := written["said"]:
        typer.echo(said)


def _of_run(folder: Path, output: Path | None) -> dict[str, Any]:
    from flaremesh.deploy.reports.report import write_report

    written = write_report(folder, writable_folder(output or folder / "report"))
    measured, predicted = written.fitted_contraction, written.predicted_contraction
    beside = "" if predicted is None else f", predicted {predicted:.4f}"
    return {
        "page": str(written.page),
        "figures": {name: str(path) for name, path in written.figures.items()},
        "predicted_contraction": predicted,
        "fitted_contraction": measured,
        "said": measured is not None
        and f"consensus distance: measured contraction {measured:.4f} per iteration{beside}",
    }


def _of_live(url: str, last: float, output: Path | None, mesh: str | None, run: str | None) -> dict[str, Any]:
    from flaremesh.deploy.reports.live import write_live_report
    from flaremesh.deploy.reports.prometheus import Prometheus

    written = write_live_report(Prometheus(url), last, output and writable_folder(output), mesh, run)
    return {
        "page": str(written.page),
        "figures": {name: str(path) for name, path in written.figures.items()},
        "mesh": written.mesh,
        "run": written.run,
        "said": f"{written.mesh}: {f'run {written.run}' if written.run else 'no run in the time shown'}",
    }


def _seconds(duration: str) -> float:
    given = re.fullmatch(r"(\d+)([smhd])", duration)
    if given is None or int(given[1]) == 0:
        raise typer.BadParameter(f"--last {duration} is no duration: write 90s, 15m, 2h or 1d")
    return int(given[1]) * _SECONDS[given[2]]
