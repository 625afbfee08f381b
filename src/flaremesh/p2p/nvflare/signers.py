"""Who signed an app: NVFlare's client puts signatures and a certificate into each folder of a job."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from cryptography import x509
from nvflare.lighter.tool_consts import NVFLARE_SIG_FILE, NVFLARE_SUBMITTER_CRT_FILE
from nvflare.lighter.utils import verify_folder_signature_and_get_signers

from flaremesh.certificates import CertificateError, Identity, Kind, holder
from flaremesh.signatures import SignatureError

SIGNATURE_FILES: Final = frozenset({NVFLARE_SIG_FILE, NVFLARE_SUBMITTER_CRT_FILE})
"""The files that signing adds to each folder."""


def signer_of(folder: Path, root: Path, revoked: Collection[str] = ()) -> Identity:
    """The one admin who signed all that is in a folder.

    NVFlare takes any certificate of the root's, also the server's and a site's, and several in one app.

    Args:
        folder: of an app.
        root: the certificate of the mesh's root.
        revoked: serial numbers, in decimal.

    Raises:
        SignatureError: nobody signed it, or several did, or somebody who is no admin, or not any more.
    """
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    certificates = {_certificate(part / NVFLARE_SUBMITTER_CRT_FILE) for part in folders}
    if None in certificates:
        raise SignatureError("it is not signed altogether")
    if len(certificates) > 1:
        raise SignatureError("it is signed by several")
    try:
        (certificate,) = x509.load_pem_x509_certificates(certificates.pop() or b"")
        signer = holder(certificate, x509.load_pem_x509_certificate(root.read_bytes()), revoked)
    except ValueError:
        raise SignatureError("its signer's certificate is damaged, or there is more than one") from None
    except CertificateError as error:
        raise SignatureError(str(error)) from None
    if signer.kind is not Kind.ADMIN:
        raise SignatureError("it is signed with a certificate that is no admin's: a server's or a site's")
    verified, _ = verify_folder_signature_and_get_signers(str(folder), str(root))
    if not verified:
        raise SignatureError("a signature in it is wrong")
    return signer


def _certificate(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None
