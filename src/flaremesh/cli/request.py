"""``flaremesh request``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from flaremesh.cli.outputs import FileError, writable_folder


def request(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="The participant: a site, an admin's e-mail address, or server."),
    ],
    output: Annotated[Path, typer.Option(help="Folder for both files.")] = Path(),
) -> None:
    """Make a participant's private key where it stays, and the request for its certificate."""
    from flaremesh.provision.requests import new_request, read_request

    key, csr = new_request(name)
    folder = writable_folder(output)
    key_file, csr_file = folder / f"{name}.key", folder / f"{name}.csr"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # never over a key that a certificate may be for
        with os.fdopen(os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key)
        csr_file.write_bytes(csr)
    except FileExistsError:
        raise FileError(f"{key_file} is there already. Move it away, or name another folder.") from None
    except OSError as error:
        raise FileError.of(error) from None
    owner = "server" if name == "server" else "client"
    typer.echo(f"{key_file}  the private key: it stays here, and nobody else needs it")
    typer.echo(
        f"{csr_file}  send this to whoever provisions the mesh: flaremesh sign TOPOLOGY {csr_file.name}"
    )
    typer.echo(f"Fingerprint, which `flaremesh sign` shows too: {read_request(csr).fingerprint}")
    typer.echo(f"Next: put the key into the kit that you get back, as startup/{owner}.key")
