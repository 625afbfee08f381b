"""``flaremesh sign``."""

from pathlib import Path
from typing import Annotated

import typer

from flaremesh.cli.options import Output, TopologyFile, load, mesh_folder
from flaremesh.cli.outputs import FileError, writable_folder


def sign(
    topology: TopologyFile,
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="The .csr of `flaremesh request`.")],
    output: Output = None,
) -> None:
    """Make the kit of a participant that keeps its private key to itself."""
    from flaremesh.provision import kits
    from flaremesh.provision.plan import check
    from flaremesh.provision.requests import read_request

    try:
        with request.open("rb") as file:
            asked = read_request(file.read(1 << 17))
    except OSError as error:
        raise FileError.of(error) from None
    loaded = load(topology)
    check(loaded)
    result = kits.provision(loaded, writable_folder(mesh_folder(loaded, output)), request=asked)
    typer.echo(f"{result.kits[asked.name]}  the kit of {asked.name}, without a private key")
    typer.echo(f"Fingerprint, which must be the one that {asked.name} was shown: {asked.fingerprint}")
    for certificate in result.retired:
        typer.echo(f"retired  the certificate {certificate.serial} of {certificate.holder}, for another key")
    owner = "server" if asked.name == "server" else "client"
    typer.echo(f"Next: hand it out; {asked.name} puts its key there, as startup/{owner}.key")
