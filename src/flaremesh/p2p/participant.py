"""Starts a server or a site from the kit in its workspace: ``python -m flaremesh.p2p.participant FOLDER``.

What would keep the participant from working is found here, before NVFlare starts, and printed as one line.
"""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID, ObjectIdentifier

from flaremesh.errors import FlaremeshError
from flaremesh.p2p.gate import policy
from flaremesh.p2p.nvflare.processes import server_command, site_command
from flaremesh.p2p.nvflare.startup import startup_files

NAME_VARIABLE: Final = "FLAREMESH_PARTICIPANT"
"""Environment variable with the name of the participant that the kit must be of; unset takes any kit."""

GPUS_VARIABLE: Final = "FLAREMESH_GPUS"
"""Environment variable with the number of GPUs that must be there."""

_EXIT_CODE = 78  # EX_CONFIG of sysexits.h


class StartError(FlaremeshError):
    """The participant cannot start here; the message says why and what to do."""

    exit_code = _EXIT_CODE


class Identity(NamedTuple):
    """The participant to which a kit belongs.

    Attributes:
        name: of the participant, ``server`` or the site's.
        org: its organisation.
        is_server: the kit is the server's.
    """

    name: str
    org: str
    is_server: bool


def command(workspace: Path) -> list[str]:
    """The command that runs the participant whose kit is in ``workspace``, an absolute path.

    Raises:
        StartError: there is no kit, or it is not a valid one.
    """
    name, org, is_server = identity(workspace)
    return server_command(workspace, org) if is_server else site_command(workspace, name, org)


def identity(workspace: Path) -> Identity:
    """Whose kit is in ``workspace``.

    Raises:
        StartError: there is no kit, its certificate is not of the mesh's root, or not valid now.
    """
    startup = workspace / "startup"
    files = startup_files(startup)
    try:
        certificate, root = _certificate(files.certificate), _certificate(files.root)
    except FileNotFoundError as error:
        raise StartError(
            f"there is no startup kit in {startup}: {Path(error.filename).name} is missing. "
            "Install the kit that `flaremesh provision` made for this participant."
        ) from None
    except ValueError as error:
        raise StartError(f"the kit in {startup} is damaged: {error}. Install it again.") from None
    name = _attribute(certificate, NameOID.COMMON_NAME)
    try:
        certificate.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError):
        raise StartError(
            f"{name}: the certificate is not of the root in the kit. "
            "The files are from two kits: install one of them whole."
        ) from None
    now = datetime.now(UTC)
    if now > certificate.not_valid_after_utc:
        raise StartError(
            f"{name}: the certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}. "
            "`flaremesh provision` renews it in its last 30 days: install the new kit."
        )
    if now < certificate.not_valid_before_utc:
        raise StartError(
            f"{name}: the certificate is not valid before "
            f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC. "
            "Set this machine's clock."
        )
    return Identity(name, _attribute(certificate, NameOID.ORGANIZATION_NAME), files.is_server)


def check(workspace: Path, name: str | None, gpus: int) -> None:
    """Check that the participant can work here.

    Args:
        workspace: its folder, with the kit in it.
        name: the participant whose kit it must be; None takes any.
        gpus: how many must be there.

    Raises:
        StartError: it cannot.
    """
    found, _, is_server = identity(workspace)
    if name and found != name:
        raise StartError(f"this is {name}, and the kit is that of {found}. Install the kit of {name}.")
    probe = workspace / ".writable"
    try:
        probe.write_bytes(bytes(4096))
        probe.unlink()
    except OSError as error:
        raise StartError(
            f"{found}: the workspace {workspace} cannot be written: {error.strerror}. "
            "It needs room, and the user of this process must own it."
        ) from None
    if not is_server:
        try:
            policy.read(workspace)
        except policy.PolicyError as error:
            raise StartError(
                f"{found}: it would run nothing, for its own policy has mistakes. {error}"
            ) from None
    if gpus:
        require_gpus(found, gpus, visible_gpus())


def visible_gpus() -> int | None:
    """How many GPUs torch sees; None where it was built without CUDA."""
    import torch  # seconds, which a site without GPUs need not wait

    return torch.cuda.device_count() if torch.version.cuda else None


def require_gpus(name: str, gpus: int, visible: int | None) -> None:
    """Check that there are enough GPUs.

    Args:
        name: the participant.
        gpus: how many must be there.
        visible: how many torch sees; None if it has no CUDA.

    Raises:
        StartError: there are fewer.
    """
    if visible is None:
        raise StartError(
            f"{name} asks for {gpus} GPUs, and this image's torch has no CUDA. Take the CUDA image."
        )
    if visible < gpus:
        raise StartError(
            f"{name} asks for {gpus} GPUs, and {visible} can be seen. Is the driver loaded on this node, "
            "and does the container run with NVIDIA's runtime?"
        )


def _certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def _attribute(certificate: x509.Certificate, oid: ObjectIdentifier) -> str:
    return str(certificate.subject.get_attributes_for_oid(oid)[0].value)


def main() -> NoReturn:
    """Check, then become the participant."""
    workspace = Path(sys.argv[1]).resolve()
    try:
        check(workspace, os.environ.get(NAME_VARIABLE), int(os.environ.get(GPUS_VARIABLE) or 0))
        arguments = command(workspace)
    except StartError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(error.exit_code)
    os.environ["PYTHONSAFEPATH"] = "1"  # nothing is imported from the workspace, where jobs put their files
    os.execv(arguments[0], arguments)


if __name__ == "__main__":
    main()
