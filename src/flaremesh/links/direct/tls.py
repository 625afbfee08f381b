"""Who is at the other end: TLS 1.3 with the certificates of the kits, verified by both sides."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaremesh.links.errors import LinkError
from flaremesh.links.link import Refusal

_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED


@dataclass(frozen=True)
class Credentials:
    """A site's certificate and private key, and the root that all certificates of the mesh come from.

    Both methods raise LinkError for files that cannot be used.
    """

    certificate: Path
    key: Path
    root: Path

    def listening(self) -> ssl.SSLContext:
        """TLS for connections that come in."""
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0  # sessions are not resumed, so that every connection proves who it is
        return context

    def dialling(self) -> ssl.SSLContext:
        """TLS for connections that go out."""
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # a certificate names a site, not a host: see peer_name
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(self.root)
            context.load_cert_chain(self.certificate, self.key)
        except OSError as error:
            raise LinkError(f"the certificate {self.certificate} cannot be used: {error}") from error
        return context


def peer_name(connection: ssl.SSLSocket) -> str:
    """The common name of the verified certificate at the other end."""
    certificate = connection.getpeercert() or {}
    subject: Any = certificate.get("subject", ())
    names = [value for part in subject for key, value in part if key == "commonName"]
    return str(names[0]) if len(names) == 1 else ""


def refusal_of(error: ssl.SSLError) -> Refusal:
    """Why a handshake failed; `Refusal.HANDSHAKE` if it is not because of a certificate."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refusal.EXPIRED if error.verify_code == _EXPIRED else Refusal.UNTRUSTED
    if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return Refusal.UNTRUSTED
    return Refusal.REJECTED if "ALERT" in (error.reason or "") else Refusal.HANDSHAKE
