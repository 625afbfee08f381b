"""``flaremesh resume``."""

from pathlib import Path
from typing import Annotated

import typer

from flaremesh.cli.interruption import stopped_by_signals
from flaremesh.cli.options import AsJson, Draw, Output, TopologyFile, Where, load, mesh_folder, name_code
from flaremesh.cli.outputs import writable_folder
from flaremesh.deploy.targets import TargetKind, target_of


def resume(
    topology: TopologyFile,
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="The run, by its id in `flaremesh runs`, or how that begins.")
    ],
    changed: Annotated[
        Path | None,
        typer.Option(
            "--topology",
            metavar="NEW",
            help="Go on with the sites of this file, where each decides on it anew, as another run.",
        ),
    ] = None,
    where: Where = TargetKind.LOCAL,
    output: Output = None,
    draw: Draw = False,
    as_json: AsJson = False,
) -> None:
    """Let a run that has ended without finishing go on from its checkpoints; Ctrl-C leaves it alone.

    Exit code: 0 finished, 1 failed or aborted, 2 it cannot go on, 130 left with Ctrl-C.
    """
    from flaremesh.cli.progress import ProgressView
    from flaremesh.cli.result import how_to_attach, show_result, warn
    from flaremesh.deploy.runs import resume as runs
    from flaremesh.deploy.runs.attach import LeftAlone

    loaded = load(changed or topology, executes=changed is not None)
    mesh = writable_folder(mesh_folder(loaded, output))
    target = target_of(where, loaded, mesh)
    if changed:
        name_code(loaded, changed.parent)
    try:
        with ProgressView(loaded.run.iterations) as view, stopped_by_signals(asks=False) as stop:
            resume_as = runs.resume_with if changed else runs.resume
            result = resume_as(loaded, target, mesh, run, view.show, stop, warn)
    except LeftAlone as left:
        typer.echo(how_to_attach(changed or topology, left.run_id), err=True)
        raise typer.Exit(left.exit_code) from None
    show_result(result, mesh, draw=draw, as_json=as_json)
