"""Requests of participants that make their keys themselves, so that no key travels (PKCS #10, RFC 2986)."""

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from flaremesh.errors import FlaremeshError
from flaremesh.issuing import key_pem, new_key

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._%+@-]{0,63}"
_LONGEST: Final = 1 << 16  # bytes of a file with a request
_BITS: Final = range(2048, 8192 + 1)


class RequestError(FlaremeshError):
    """A request cannot be made or signed; the message says why."""

    exit_code = 2


@dataclass(frozen=True)
class Request:
    """What counts of a request; all else in it is ignored.

    Attributes:
        name: of the participant.
        key: its public key.
    """

    name: str
    key: rsa.RSAPublicKey

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the public key, by which two people can tell that they speak of the same one."""
        key = self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        digits = sha256(key).hexdigest()
        return " ".join(digits[place : place + 8] for place in range(0, len(digits), 8))


def new_request(name: str) -> tuple[bytes, bytes]:
    """A new private key and the request for it, both as text.

    Raises:
        RequestError: no participant can have this name.
    """
    if not re.fullmatch(_NAME, name):
        raise RequestError(
            "no participant can have this name. Write that of a site, an admin's e-mail address, or server, "
            "as in the topology file."
        )
    key = new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())
    return key_pem(key), request.public_bytes(Encoding.PEM)


def read_request(text: bytes) -> Request:
    """The request in a file that somebody sent.

    Raises:
        RequestError: it is none, its sender does not have the key, or the key is too weak.
    """
    try:
        if len(text) > _LONGEST:
            raise ValueError
        request = x509.load_pem_x509_csr(text)
        names = [str(one.value) for one in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        key, proved = request.public_key(), request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise RequestError(
            "the file holds no certificate request. It is the .csr that `flaremesh request` wrote."
        ) from None
    if len(names) != 1 or not re.fullmatch(_NAME, names[0]):
        raise RequestError("the request does not name one participant. `flaremesh request NAME` does.")
    if not proved:
        raise RequestError(f"{names[0]}: who made the request does not have the key in it.")
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size not in _BITS:
        raise RequestError(
            f"{names[0]}: the key is not RSA of {_BITS[0]} to {_BITS[-1]} bits. "
            "`flaremesh request` makes one that is."
        )
    return Request(names[0], key)
