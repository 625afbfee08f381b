"""``flaremesh bundle``."""

from pathlib import Path
from typing import Annotated

import typer

from flaremesh.cli.options import Output, TopologyFile, load, mesh_folder
from flaremesh.cli.outputs import writable_folder


def bundle(
    topology: TopologyFile,
    participant: Annotated[str, typer.Argument(help="`server` or a site.")],
    output: Output = None,
    sign: Annotated[
        Path | None,
        typer.Option(metavar="KEY", help="Sign the archive with this secret key of `minisign -G`."),
    ] = None,
) -> None:
    """Make one archive from which a participant without internet is installed; it holds the private key."""
    from flaremesh.deploy import bundle as bundles
    from flaremesh.deploy.minisign import SecretKey
    from flaremesh.provision.kits import provision
    from flaremesh.provision.releases import releases

    loaded = load(topology)
    mesh = writable_folder(mesh_folder(loaded, output))
    found = {release.name: release for release in releases(loaded)}
    if participant not in found:
        raise typer.BadParameter(f"{participant} is not one of {', '.join(found)}", param_hint="PARTICIPANT")
    if sign and sign.resolve().is_relative_to(mesh.resolve()):
        raise typer.BadParameter(f"{sign} lies beside what it signs: keep it elsewhere", param_hint="--sign")
    signer = SecretKey(sign, lambda: _password(sign)) if sign else None
    provision(loaded, mesh)
    archive = bundles.bundle(loaded, mesh, found[participant], signer)
    if signer:
        typer.echo(f"Signed; verify before it is unpacked: minisign -Vm {archive.name} -P {signer.public}")
    typer.echo(f"{archive}: {archive.stat().st_size / 1e6:.0f} MB, with the private key of {participant}")


def _password(key: Path) -> str:
    return str(typer.prompt(f"Password of {key}", hide_input=True, err=True))
