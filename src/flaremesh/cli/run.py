"""``flaremesh run``."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Annotated

import typer

from flaremesh.cli.options import (
    AsJson,
    Output,
    TopologyFile,
    Where,
    Wire,
    load,
    mesh_folder,
    name_code,
    overridden,
)
from flaremesh.cli.outputs import terminal, writable_folder
from flaremesh.deploy.targets import TargetKind, target_of

_EXIT_CODES = {"finished": 0, "aborted": 130}


def run(
    topology: TopologyFile,
    where: Where = TargetKind.LOCAL,
    output: Output = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Instead of run.iterations.")] = None,
    stepsize: Annotated[float | None, typer.Option(help="Instead of run.stepsize.")] = None,
    wire: Wire = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; default: the algorithm.")] = None,
    draw: Annotated[bool, typer.Option("--report", help="Draw it too, as `flaremesh report` does.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the topology's algorithm on a mesh that is up, watch it, and fetch what it leaves behind.

    Exit code: 0 finished, 1 failed or aborted from elsewhere, 130 aborted with Ctrl-C.
    """
    from flaremesh.cli.progress import ProgressView, result_table
    from flaremesh.deploy.runs import run as runs
    from flaremesh.p2p.outcome import RUN_RESULT

    loaded = overridden(load(topology, executes=True), iterations=iterations, stepsize=stepsize, wire=wire)
    mesh = writable_folder(mesh_folder(loaded, output))
    target = target_of(where, loaded, mesh)
    name_code(loaded, topology.parent)
    with ProgressView(loaded.run.iterations) as view, _interruption() as stop:
        result = runs.run(loaded, target, mesh, name or loaded.run.algorithm, view.show, stop, _warn)
    folder = mesh / "runs" / result.run_id
    if as_json:
        typer.echo(RUN_RESULT.json(result, indent=2))
    else:
        if result.sites:
            terminal().print(result_table(result))
        for site, since in sorted(result.missing.items()):
            typer.echo(f"{site} took part up to iteration {since}: the rest is that of the other sites.")
        seconds = f"{result.submit_to_result_seconds:.1f} s"
        typer.echo(f"{result.outcome}, {seconds} after it was submitted: {folder}")
    if draw:
        from flaremesh.deploy.reports.report import write_report

        written = write_report(folder, folder / "report")
        typer.echo(f"Report: {written.page}", err=as_json)
    if result.reason:
        typer.echo(f"Error: {result.reason}", err=True)
    raise typer.Exit(1 if result.reason else _EXIT_CODES.get(result.outcome, 1))


def _warn(message: str) -> None:
    typer.echo(f"Warning: {message}", err=True)


@contextlib.contextmanager
def _interruption() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets; a second one ends the command at once."""
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        typer.echo("Aborting the run, which takes some seconds.", err=True)
        for interruption, handler in before.items():
            signal.signal(interruption, handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
