"""Who is at the other end: TLS 1.3 with the certificates of two runs, verified by both sides."""

import ssl
import sys

from cryptography import x509

from flaremesh.links.credentials import Credentials, Untrusted
from flaremesh.links.frame import FrameError
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
    try:
        chain = [x509.load_der_x509_certificate(der) for der in _verified_chain(connection)]
    except (ValueError, x509.InvalidVersion) as error:  # OpenSSL reads more than cryptography does
        raise Untrusted(Refusal.UNTRUSTED, f"it cannot be read: {error}") from None
    return credentials.identify(chain)


def refusal_of(error: Exception) -> Refusal:
    """Why a peer is refused; `Refusal.HANDSHAKE` for a handshake that failed for another reason."""
    if isinstance(error, Untrusted | FrameError):
        return error.reason
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refusal.EXPIRED if error.verify_code == _EXPIRED else Refusal.UNTRUSTED
    reason = (error.reason if isinstance(error, ssl.SSLError) else None) or ""
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return Refusal.UNTRUSTED
    return Refusal.REJECTED if "ALERT" in reason else Refusal.HANDSHAKE


def is_about_certificate(error: ssl.SSLError) -> bool:
    """Whether the peer said with an alert that it does not accept this end's certificate."""
    reason = error.reason or ""
    return "ALERT" in reason and any(
        what in reason for what in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")
    )


def cause_of(error: Exception) -> str:
    """Why an attempt to connect failed, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"the handshake was refused ({error.reason or error})"
    if isinstance(error, Untrusted):
        return f"its certificate is not accepted ({error})"
    if isinstance(error, FrameError):
        return f"it does not answer as flaremesh does ({error.reason})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _verified_chain(connection: ssl.SSLSocket) -> list[bytes]:
    """The certificates in DER, from the peer's own to the root."""
    if sys.version_info >= (3, 13):
        return connection.get_verified_chain()
    chain = connection._sslobj.get_verified_chain()  # type: ignore[attr-defined]  # public from Python 3.13 on
    return [certificate.public_bytes(_DER) for certificate in chain]
