"""``flaremesh meet``."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flaremesh.cli.interruption import until_interrupted
from flaremesh.cli.outputs import FileError

if TYPE_CHECKING:
    from cryptography import x509  # which --help does not need


def meet(
    root: Annotated[Path, typer.Option(metavar="FILE", help="Certificate of the mesh's root: rootCA.pem.")],
    mesh: Annotated[str, typer.Option(metavar="NAME", help="Name of the mesh.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on which sites dial in.")] = 8003,
    revoked: Annotated[
        list[str] | None,
        typer.Option(metavar="SERIAL", help="A certificate that counts no more; may be given many times."),
    ] = None,
) -> None:
    """Join the connections of sites that nobody can dial, blind to what passes, until Ctrl-C or SIGTERM."""
    from flaremesh.meeting.point import MeetingPoint, allow_many_files, listen

    serials = revoked or []
    if wrong := [serial for serial in serials if not (serial.isascii() and serial.isdigit())]:
        raise typer.BadParameter(f"{wrong[0]} is no serial number in decimal", param_hint="--revoked")
    if not mesh.strip():
        raise typer.BadParameter("a mesh has a name", param_hint="--mesh")
    certificate = _certificate(root)
    allow_many_files()
    try:
        listening = listen(port)
    except OSError as error:
        raise FileError(
            f"port {port} cannot be listened on: {error.strerror or error}. Name another one."
        ) from None
    with until_interrupted():
        point = MeetingPoint(listening, mesh, certificate, serials)
        try:
            typer.echo(f"Meeting point of {mesh}, on port {port}. Ctrl-C ends it.")
            threading.Event().wait()
        finally:
            point.close()


def _certificate(path: Path) -> "x509.Certificate":
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise FileError.of(error) from None
    except ValueError:
        raise FileError(
            f"{path} is no certificate. Name rootCA.pem, which is in every kit of the mesh."
        ) from None
