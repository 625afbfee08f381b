"""Starts a server or a site from the kit in its workspace: ``python -m flaremesh.p2p.participant FOLDER``.

What would keep the participant from working is found here, before NVFlare starts, and printed as one line.
"""

import os
import sys
from pathlib import Path
from typing import Final, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from flaremesh.certificates import CertificateError, Identity, Kind, holder
from flaremesh.errors import FlaremeshError
from flaremesh.issuing import read_key
from flaremesh.p2p import charter
from flaremesh.p2p.gate import policy
from flaremesh.p2p.job_processes import end_orphans
from flaremesh.p2p.nvflare.processes import server_command, site_command
from flaremesh.p2p.nvflare.startup import DOOR_RESOURCES, RUNS, startup_files
from flaremesh.record import RecordError
from flaremesh.signatures import SignatureError

NAME_VARIABLE: Final = "FLAREMESH_PARTICIPANT"
"""Environment variable with the name of the participant that the kit must be of; unset takes any kit."""

GPUS_VARIABLE: Final = "FLAREMESH_GPUS"
"""Environment variable with the number of GPUs that must be there."""

_EXIT_CODE = 78  # EX_CONFIG of sysexits.h


class StartError(FlaremeshError):
    """The participant cannot start here; the message says why and what to do."""

    exit_code = _EXIT_CODE


def command(workspace: Path) -> list[str]:
    """The command that runs the participant whose kit is in ``workspace``, an absolute path.

    Raises:
        StartError: there is no kit, or it is not a valid one.
    """
    own = identity(workspace)
    if own.kind is Kind.SERVER:
        return server_command(workspace, own.org)
    return site_command(workspace, own.name, own.org)


def identity(workspace: Path) -> Identity:
    """Whose kit is in ``workspace``.

    Raises:
        StartError: there is no kit, it is not whole, or not one of this mesh that is valid now.
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
    try:
        certificate.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError):
        raise _mixed("the certificate is not of the root in the kit") from None
    own = _charter(startup)
    try:
        found = holder(certificate, root, own.revoked)
    except CertificateError as error:
        raise StartError(str(error)) from None
    if own.participant != found.name:
        raise _mixed(f"the certificate is that of {found.name}, and the charter is not")
    if (found.kind is Kind.SERVER) != files.is_server:
        raise _mixed(f"{files.certificate.name} is the certificate of {found.name}, which is another's place")
    if found.kind is Kind.SITE:
        _check_runs(startup / RUNS, certificate, root)
    return found


def _charter(startup: Path) -> charter.Charter:
    try:
        return charter.read(startup)
    except FileNotFoundError:
        raise _outdated(charter.CHARTER) from None
    except SignatureError as error:
        raise StartError(
            f"the charter {startup / charter.CHARTER} is not what the root in the kit signed: {error}. "
            "Install the kit again, whole."
        ) from None
    except RecordError as error:
        raise StartError(f"{error} Install a kit and a flaremesh of one version.") from None


def _check_runs(file: Path, certificate: x509.Certificate, root: x509.Certificate) -> None:
    """Check that a site's certificate for runs goes with its own."""
    try:
        runs = _certificate(file)
        runs.verify_directly_issued_by(root)
    except FileNotFoundError:
        raise _outdated(RUNS) from None
    except (InvalidSignature, ValueError):
        raise _mixed(f"{RUNS} is not of the root in the kit") from None
    if runs.public_key() != certificate.public_key():
        raise _mixed(f"{RUNS} is for another key than the certificate")


def _mixed(what: str) -> StartError:
    return StartError(f"{what}. The files are from two kits: install one of them whole.")


def _outdated(missing: str) -> StartError:
    return StartError(
        f"the kit has no {missing}, and so is one of an earlier version. "
        "Run `flaremesh provision`, and install the new kit."
    )


def check(workspace: Path, name: str | None, gpus: int) -> None:
    """Check that the participant can work here.

    Args:
        workspace: its folder, with the kit in it.
        name: the participant whose kit it must be; None takes any.
        gpus: how many must be there.

    Raises:
        StartError: it cannot.
    """
    holds = identity(workspace)
    if holds.kind is Kind.SITE and not (workspace / "local" / DOOR_RESOURCES).exists():
        raise _outdated(DOOR_RESOURCES)  # NVFlare would let in every job without it
    found = holds.name
    if name and found != name:
        raise StartError(f"this is {name}, and the kit is that of {found}. Install the kit of {name}.")
    _check_key(workspace / "startup")
    probe = workspace / ".writable"
    try:
        probe.write_bytes(bytes(4096))
        probe.unlink()
    except OSError as error:
        raise StartError(
            f"{found}: the workspace {workspace} cannot be written: {error.strerror}. "
            "It needs room, and the user of this process must own it."
        ) from None
    if holds.kind is Kind.SITE:
        try:
            policy.read(workspace)
        except policy.PolicyError as error:
            raise StartError(
                f"{found}: it would run nothing, for its own policy has mistakes. {error}"
            ) from None
    if gpus:
        require_gpus(found, gpus, visible_gpus())


def _check_key(startup: Path) -> None:
    """Check that the private key is there, and that of the certificate."""
    files = startup_files(startup)
    try:
        key = read_key(files.key.read_bytes())
    except FileNotFoundError:
        raise StartError(
            f"{files.key} is missing. If this participant made its key itself, it is the file that "
            f"`flaremesh request` wrote: put it there. Otherwise install the kit again."
        ) from None
    except (OSError, ValueError):
        raise StartError(f"the private key {files.key} cannot be read. Install the kit again.") from None
    if key.public_key() != _certificate(files.certificate).public_key():
        raise StartError(
            f"{files.key} is not the key of the certificate beside it. Install the key and the kit that were "
            "made together."
        )


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


def main() -> NoReturn:
    """Check, then become the participant."""
    workspace = Path(sys.argv[1]).resolve()
    try:
        check(workspace, os.environ.get(NAME_VARIABLE), int(os.environ.get(GPUS_VARIABLE) or 0))
        arguments = command(workspace)
        end_orphans(workspace)
    except StartError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(error.exit_code)
    os.environ["PYTHONSAFEPATH"] = "1"  # nothing is imported from the workspace, where jobs put their files
    os.execv(arguments[0], arguments)


if __name__ == "__main__":
    main()
