"""The certificates with which a site proves to its neighbours who it is, made from its kit."""

from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from flaremesh.issuing import pem, read_key, run_certificate
from flaremesh.links import LinkError
from flaremesh.links.credentials import Credentials
from flaremesh.p2p.nvflare.startup import RUNS, startup_files


def issue(startup: Path, folder: Path, lifetime: timedelta, revoked: tuple[str, ...] = ()) -> Credentials:
    """Issue a certificate for a fresh key, in the site's name.

    Args:
        startup: of the site's kit, with its private key.
        folder: where certificate and key are written; it exists.
        lifetime: of the certificate, as far as that of the kit's reaches.
        revoked: serial numbers, as in the charter.

    Raises:
        LinkError: the kit lacks a file, or one is damaged.
    """
    files = startup_files(startup)
    try:
        issuer = x509.load_pem_x509_certificate((startup / RUNS).read_bytes())
        site_key = read_key(files.key.read_bytes())
    except (OSError, ValueError) as error:
        raise LinkError(
            f"{startup / RUNS} and the key beside it, by which a site issues certificates to its runs, "
            f"cannot be read: {error}. Run `flaremesh provision`, and install the new kit"
        ) from error
    key = ec.generate_private_key(ec.SECP256R1())
    certificate, key_file = folder / "run.crt", folder / "run.key"
    certificate.write_bytes(pem(run_certificate(issuer, site_key, key.public_key(), lifetime), issuer))
    key_file.touch(mode=0o600)
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return Credentials(certificate, key_file, files.root, revoked)
