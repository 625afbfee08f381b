"""``flaremesh up``."""

from typing import Annotated

import typer

from flaremesh.cli.options import AsJson, Output, TopologyFile, Where, load, mesh_folder
from flaremesh.cli.outputs import writable_folder
from flaremesh.deploy.targets import TargetKind, target_of
from flaremesh.deploy.targets.base import DeployError


def up(
    topology: TopologyFile,
    where: Where = TargetKind.LOCAL,
    output: Output = None,
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds until all must be ready; default: 60, on Kubernetes 300."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start the server and all sites, from kits that are made first where they are missing or old.

    Exit code: 1 where somebody who was up already runs with an older kit than the file asks for now.
    """
    from flaremesh.cli.status import show
    from flaremesh.deploy.outdated import kits_in_use, older_than_kits, say_older
    from flaremesh.deploy.watch.status import mesh_status
    from flaremesh.provision.kits import provision

    loaded = load(topology)
    mesh = writable_folder(mesh_folder(loaded, output))
    provision(loaded, mesh)
    target = target_of(where, loaded, mesh)
    started = target.up(timeout or target.start_seconds)
    if not as_json:
        typer.echo(f"Started {', '.join(started)}." if started else "Already up.")
    status = mesh_status(loaded, target, mesh)
    show(status, as_json=as_json)
    if older := older_than_kits(kits_in_use(target, status.participants), mesh):
        raise DeployError(say_older(older, mesh))
