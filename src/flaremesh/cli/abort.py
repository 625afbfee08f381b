"""``flaremesh abort``."""

from typing import Annotated

import typer

from flaremesh.cli.options import AsJson, Output, TopologyFile, Where, load, mesh_folder, print_json
from flaremesh.deploy.targets import TargetKind, target_of


def abort(
    topology: TopologyFile,
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="The run, by its id in `flaremesh runs`, or how that begins.")
    ],
    where: Where = TargetKind.LOCAL,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """End a run that goes on, also while it waits for its next attempt; one that has ended stays as it is."""
    from flaremesh.cli.result import warn
    from flaremesh.deploy.runs.end import end

    loaded = load(topology)
    mesh = mesh_folder(loaded, output)
    ended = end(loaded, target_of(where, loaded, mesh), mesh, run, warn)
    if as_json:
        print_json({"run_id": ended.run_id, "state": ended.state, "aborted": ended.aborted})
    elif ended.aborted:
        typer.echo(f"The run {ended.run_id} is aborted.")
    else:
        typer.echo(f"The run {ended.run_id} has ended before: {ended.state}.")
