"""A run's own key and certificate, in its folder while it lasts.

NVFlare gives a job's process the private key of the kit. A site issues its run a certificate instead, in the
site's name: the run connects with it to the server and to its neighbours, and what a job takes along is worth
nothing two days later. The server's job speaks to its own participant alone, in clear on the loopback device;
NVFlare insists on a key there, and any will do.
"""

from contextlib import suppress
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
        certificate: of the run, followed by the one that issued it; empty at the server.
        key: the run's private key.
    """

    certificate: Path
    key: Path


def credential_of(run_folder: Path) -> RunCredential:
    """Where the credential of a run is, if it has one."""
    folder = run_folder / _FOLDER
    return RunCredential(folder / "run.crt", folder / "run.key")


def issue(startup: Path, run_folder: Path, key: rsa.RSAPrivateKey, lifetime: timedelta = _LIFETIME) -> None:
    """Give a run its credential.

    Args:
        startup: the folder in the participant's kit.
        run_folder: the run's, which exists.
        key: a new one.
        lifetime: of the certificate, as far as that of the kit's reaches.

    Raises:
        FileNotFoundError: the kit is of an earlier version, or not whole.
        ValueError: a file of the kit is damaged.
    """
    kit, files = startup_files(startup), credential_of(run_folder)
    chain = b"" if kit.is_server else _chain(startup / RUNS, kit.key, key.public_key(), lifetime)
    withdraw(run_folder)
    files.key.parent.mkdir(mode=0o700)
    files.key.touch(mode=0o600)
    files.key.write_bytes(key_pem(key))
    files.certificate.write_bytes(chain)


def withdraw(run_folder: Path) -> None:
    """Remove the credential of a run that has ended, if it is still there."""
    folder = run_folder / _FOLDER
    if folder.is_symlink():  # the run owned it: it may lead to what is another's
        folder.unlink()
    for file in credential_of(run_folder):
        file.unlink(missing_ok=True)
    with suppress(OSError):  # there is none, or the run has put something there
        folder.rmdir()


def withdraw_all(workspace: Path) -> None:
    """Remove the credentials of all runs; call it before any is started."""
    for folder in workspace.glob(f"*/{_FOLDER}"):
        withdraw(folder.parent)


def _chain(issuing: Path, site_key: Path, run_key: rsa.RSAPublicKey, lifetime: timedelta) -> bytes:
    issuer = x509.load_pem_x509_certificate(issuing.read_bytes())
    return pem(run_certificate(issuer, read_key(site_key.read_bytes()), run_key, lifetime), issuer)
