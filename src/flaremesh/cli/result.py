"""How a run that was followed is shown at its end."""

from pathlib import Path

import typer

from flaremesh.cli.outputs import terminal
from flaremesh.cli.progress import result_table
from flaremesh.p2p.outcome import RUN_RESULT, RunResult, absences

_EXIT_CODES = {"finished": 0, "aborted": 130}


def show_result(result: RunResult, mesh: Path, *, draw: bool, as_json: bool) -> None:
    """Print how a run ended, and end the command with the exit code that says it.

    Args:
        result: of the run, which is in the mesh's folder.
        mesh: that folder.
        draw: make its report, too.
        as_json: print JSON.
    """
    folder = mesh / "runs" / result.run_id
    if as_json:
        typer.echo(RUN_RESULT.json(result, indent=2))
    else:
        if result.sites:
            terminal().print(result_table(result))
        for away in absences(result.members):
            if away.until is None:
                then = "the rest is that of the other sites."
                typer.echo(f"{away.site} took part up to iteration {away.since}: {then}")
            else:
                typer.echo(
                    f"{away.site} took part up to iteration {away.since}, and again from {away.until} on."
                )
        if result.ended:
            typer.echo(result.ended)
        seconds = result.submit_to_result_seconds
        after = "" if seconds is None else f", {seconds:.1f} s after it was submitted"
        typer.echo(f"{result.outcome}{after}: {folder}")
    if draw:
        from flaremesh.deploy.reports.report import write_report

        written = write_report(folder, folder / "report")
        typer.echo(f"Report: {written.page}", err=as_json)
    if result.reason:
        typer.echo(f"Error: {result.reason}", err=True)
    raise typer.Exit(1 if result.reason else _EXIT_CODES.get(result.outcome, 1))


def warn(message: str) -> None:
    """Print a warning."""
    typer.echo(f"Warning: {message}", err=True)


def how_to_attach(topology: Path, run_id: str) -> str:
    """What to type to come back to a run."""
    return (
        f"The run {run_id} goes on. `flaremesh attach {topology} {run_id}` follows it, "
        f"`flaremesh abort {topology} {run_id}` ends it."
    )
