"""A run's own key and certificate, in its folder while it lasts.

NVFlare gives a job's process the private key of the kit. A site issues its run a certificate instead, in the
site's name: the run connects with it to the server and to its neighbours, and what a job takes along is worth
nothing two days later. The server's job speaks to its own participant alone, in clear on the loopback device;
NVFlare insists on a key there, and any will do.
"""

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from flaremesh.issuing import key_pem, pem, read_key, run_certificate
from flaremesh.p2p.nvflare.startup import RUNS, startup_files

_FOLDER: Final = "credential"

_LIFETIME: Final = timedelta(days=2)


class RunCredential(NamedTuple):
    """The files of a run.

    Attributes:
        certificate: of the run, followed by the one that issued it; none at the server.
        key: the run's private key.
    """

    certificate: Path
    key: Path


def credential_of(run_folder: Path) -> RunCredential:
    """Where the credential of a run is, if it has one."""
    folder = run_folder / _FOLDER
    return RunCredential(folder / "run.crt", folder / "run.key")


def issue(startup: Path, run_folder: Path, key: rsa.RSAPrivateKey) -> None:
    """Give a run its credential.

    Args:
        startup: the folder in the participant's kit.
        run_folder: the run's, which exists.
        key: a new one.

    Raises:
        FileNotFoundError: the kit is of an earlier version, or not whole.
        ValueError: a file of the kit is damaged.
    """
    kit = startup_files(startup)
    files = credential_of(run_folder)
    withdraw(run_folder)
    files.key.parent.mkdir(mode=0o700)
    files.key.touch(mode=0o600)
    files.key.write_bytes(key_pem(key))
    if not kit.is_server:
        issuer = x509.load_pem_x509_certificate((startup / RUNS).read_bytes())
        leaf = run_certificate(issuer, read_key(kit.key.read_bytes()), key.public_key(), _LIFETIME)
        files.certificate.write_bytes(pem(leaf, issuer))


def withdraw(run_folder: Path) -> None:
    """Remove the credential of a run that has ended, if it is still there."""
    shutil.rmtree(run_folder / _FOLDER, ignore_errors=True)


def withdraw_all(workspace: Path) -> None:
    """Remove the credentials of all runs; call it before any is started."""
    for folder in workspace.glob(f"*/{_FOLDER}"):
        withdraw(folder.parent)
