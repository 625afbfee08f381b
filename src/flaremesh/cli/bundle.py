"""``flaremesh bundle``."""

from typing import Annotated

import typer

from flaremesh.cli.options import Output, TopologyFile, load, mesh_folder
from flaremesh.cli.outputs import writable_folder


def bundle(
    topology: TopologyFile,
    participant: Annotated[str, typer.Argument(help="`server` or a site.")],
    output: Output = None,
) -> None:
    """Make one archive from which a participant without internet is installed; it holds the private key."""
    from flaremesh.deploy import bundle as bundles
    from flaremesh.provision.kits import provision
    from flaremesh.provision.releases import releases

    loaded = load(topology)
    mesh = writable_folder(mesh_folder(loaded, output))
    found = {release.name: release for release in releases(loaded)}
    if participant not in found:
        raise typer.BadParameter(f"{participant} is not one of {', '.join(found)}", param_hint="PARTICIPANT")
    provision(loaded, mesh)
    archive = bundles.bundle(loaded, mesh, found[participant])
    typer.echo(f"{archive}: {archive.stat().st_size / 1e6:.0f} MB, with the private key of {participant}")
