"""``flaremesh run``."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flaremesh.cli.interruption import Stop, stopped_by_signals
from flaremesh.cli.options import (
    AsJson,
    Draw,
    Output,
    TopologyFile,
    Where,
    Wire,
    load,
    mesh_folder,
    name_code,
    overridden,
    print_json,
)
from flaremesh.cli.outputs import writable_folder
from flaremesh.deploy.targets import TargetKind, target_of

if TYPE_CHECKING:
    from flaremesh.cli.progress import ProgressView  # brings NVFlare, which --help does not need


def run(
    topology: TopologyFile,
    where: Where = TargetKind.LOCAL,
    output: Output = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Instead of run.iterations.")] = None,
    stepsize: Annotated[float | None, typer.Option(help="Instead of run.stepsize.")] = None,
    wire: Wire = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; default: the algorithm.")] = None,
    draw: Draw = False,
    detach: Annotated[
        bool,
        typer.Option("--detach", help="Print the run's id as soon as it has begun, and leave it alone."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run the topology's algorithm on a mesh that is up, watch it, and fetch what it leaves behind.

    Ctrl-C asks on a terminal whether to leave the run or to abort it, a second one aborts; elsewhere the
    first one does. With --detach, a run that waits for approval stays attached until it is approved, because
    it is submitted again until then.

    Exit code: 0 finished, or begun with --detach; 1 failed or aborted from elsewhere; 130 aborted, or left,
    with Ctrl-C.
    """
    from flaremesh.cli.progress import ProgressView
    from flaremesh.cli.result import how_to_attach, show_result, warn
    from flaremesh.deploy.runs import run as runs
    from flaremesh.deploy.runs.attach import LeftAlone

    loaded = overridden(load(topology, executes=True), iterations=iterations, stepsize=stepsize, wire=wire)
    mesh = writable_folder(mesh_folder(loaded, output))
    target = target_of(where, loaded, mesh)
    name_code(loaded, topology.parent)
    on_terminal = sys.stdin.isatty() and sys.stderr.isatty()
    try:
        with (
            ProgressView(loaded.run.iterations) as view,
            stopped_by_signals(asks=on_terminal, final=_say_that_it_aborts) as stop,
        ):
            result = runs.run(
                loaded,
                target,
                mesh,
                name or loaded.run.algorithm,
                view.show,
                stop,
                warn,
                leave=lambda: _leave(stop, view),
                detach=detach,
            )
    except LeftAlone as left:
        typer.echo(how_to_attach(topology, left.run_id), err=True)
        if not detach or stop.is_set():
            raise typer.Exit(left.exit_code) from None
        if as_json:
            print_json({"run_id": left.run_id})
        else:
            typer.echo(left.run_id)
        return
    show_result(result, mesh, draw=draw, as_json=as_json)


def _say_that_it_aborts() -> None:
    typer.echo("Aborting the run, which takes some seconds.", err=True)


def _leave(stop: Stop, view: "ProgressView") -> bool:
    """Ask whether the run goes on without this command."""

    def ask() -> bool:
        with view.paused():
            return bool(typer.confirm("Leave the run going? If not, it is aborted", default=True, err=True))

    return stop.answers(ask)
