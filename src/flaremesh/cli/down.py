"""``flaremesh down``."""

import json

import typer

from flaremesh.cli.options import AsJson, Output, TopologyFile, Where, load, mesh_folder
from flaremesh.deploy.targets import TargetKind, target_of


def down(
    topology: TopologyFile, where: Where = TargetKind.LOCAL, output: Output = None, as_json: AsJson = False
) -> None:
    """Stop the sites, then the server; running runs are aborted."""
    loaded = load(topology)
    stopped = target_of(where, loaded, mesh_folder(loaded, output)).down()
    if as_json:
        typer.echo(json.dumps({"stopped": stopped}))
    else:
        typer.echo(f"Stopped {', '.join(stopped)}." if stopped else "Nothing was running.")
