"""Who is at the other end: TLS 1.3 with the certificates of two runs, verified by both sides."""

import ssl
import sys

from cryptography import x509

from flaremesh.links.credentials import Credentials
from flaremesh.links.link import Refusal

_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_DER = 2  # the format of what Python gives of a certificate, in _ssl.c


def peer_name(connection: ssl.SSLSocket, credentials: Credentials) -> str:
    """The site at the other end of a connection whose handshake is over, by the chain that OpenSSL verified.

    Raises:
        Untrusted: it is not the run of a site; see `Credentials.identify`.
        OSError: the peer is gone already.
    """
    connection.getpeername()
    return credentials.identify([x509.load_der_x509_certificate(der) for der in _verified_chain(connection)])


def refusal_of(error: ssl.SSLError) -> Refusal:
    """Why a handshake failed; `Refusal.HANDSHAKE` if it is not because of a certificate."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refusal.EXPIRED if error.verify_code == _EXPIRED else Refusal.UNTRUSTED
    if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return Refusal.UNTRUSTED
    return Refusal.REJECTED if "ALERT" in (error.reason or "") else Refusal.HANDSHAKE


def _verified_chain(connection: ssl.SSLSocket) -> list[bytes]:
    """The certificates in DER, from the peer's own to the root."""
    if sys.version_info >= (3, 13):
        return connection.get_verified_chain()
    chain = connection._sslobj.get_verified_chain()  # type: ignore[attr-defined]  # public from Python 3.13 on
    return [certificate.public_bytes(_DER) for certificate in chain]
