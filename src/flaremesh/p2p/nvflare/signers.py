"""Who signed an app: NVFlare's client puts signatures and a certificate into each folder of a job."""

from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from nvflare.lighter.tool_consts import NVFLARE_SIG_FILE, NVFLARE_SUBMITTER_CRT_FILE
from nvflare.lighter.utils import verify_folder_signature_and_get_signers

from flaremesh.signatures import SignatureError

SIGNATURE_FILES: Final = frozenset({NVFLARE_SIG_FILE, NVFLARE_SUBMITTER_CRT_FILE})
"""The files that signing adds to each folder."""


class Signer(NamedTuple):
    """An admin, as the certificate says who it is.

    Attributes:
        email: address.
        org: organisation.
        role: NVFlare's word for what the admin may do.
        serial: of the certificate.
    """

    email: str
    org: str
    role: str
    serial: int


def signer_of(folder: Path, root: Path) -> Signer:
    """The one admin who signed all that is in a folder.

    NVFlare takes any certificate of the root's, also the server's and a site's, and several in one app.

    Args:
        folder: of an app.
        root: the certificate of the mesh's root.

    Raises:
        SignatureError: nobody signed it, or several did, or somebody who is no admin.
    """
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    certificates = {_certificate(part / NVFLARE_SUBMITTER_CRT_FILE) for part in folders}
    if None in certificates:
        raise SignatureError("it is not signed altogether")
    if len(certificates) > 1:
        raise SignatureError("it is signed by several")
    try:
        (certificate,) = x509.load_pem_x509_certificates(certificates.pop() or b"")
    except ValueError:
        raise SignatureError("its signer's certificate is none, or is not the root's own work") from None
    signer = _admin(certificate)
    verified, _ = verify_folder_signature_and_get_signers(str(folder), str(root))
    if not verified:
        raise SignatureError("a signature in it is wrong, or its certificate is not of this mesh")
    return signer


def _admin(certificate: x509.Certificate) -> Signer:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])  # older kits do not say it
    role = _attribute(certificate, NameOID.UNSTRUCTURED_NAME)
    if not role or ExtendedKeyUsageOID.SERVER_AUTH in usage:
        raise SignatureError("it is signed with a certificate that is no admin's: a server's or a site's")
    return Signer(
        email=_attribute(certificate, NameOID.COMMON_NAME),
        org=_attribute(certificate, NameOID.ORGANIZATION_NAME),
        role=role,
        serial=certificate.serial_number,
    )


def _attribute(certificate: x509.Certificate, kind: x509.ObjectIdentifier) -> str:
    values = certificate.subject.get_attributes_for_oid(kind)
    return str(values[0].value) if len(values) == 1 else ""


def _certificate(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None
