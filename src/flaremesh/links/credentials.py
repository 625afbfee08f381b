"""Who a site of a run is, and who its peers are: by what sites, or NVFlare, issue to runs."""

import ssl
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from flaremesh import signatures
from flaremesh.certificates import CertificateError, Newest, OtherJob, identify
from flaremesh.links.errors import LinkError
from flaremesh.links.link import Refusal

Chain: TypeAlias = Sequence[x509.Certificate]
"""The certificate of a site's run and the one that issued it; the root may follow."""


@lru_cache(maxsize=4)
def _private(pem: bytes) -> PrivateKeyTypes:
    """The key in ``pem``; kept, since to check an RSA key takes many times longer than to sign with it."""
    return load_pem_private_key(pem, password=None)


class Untrusted(Exception):
    """A peer that does not prove to be a site of the mesh; ``reason`` says in one word what it lacks."""

    def __init__(self, reason: Refusal, cause: str):
        self.reason = reason
        super().__init__(cause)


@dataclass(frozen=True)
class Credentials:
    """A site's certificate and private key for one run, and what its peers are held to.

    Attributes:
        certificate: file with the run's certificate, followed by the one that issued it.
        key: file with the run's private key, RSA or on an elliptic curve.
        root: file with the certificate of the mesh's root.
        revoked: serial numbers, in decimal, of certificates that count no more.
        job: the run's id at NVFlare, which a peer's certificate may name; None where no job is under way.

    All methods but `identify` raise LinkError for files that cannot be used.
    """

    certificate: Path
    key: Path
    root: Path
    revoked: Collection[str] = ()
    job: str | None = None

    def listening(self) -> ssl.SSLContext:
        """TLS for connections that come in."""
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0  # sessions are not resumed, so that every connection proves who it is
        return context

    def dialling(self) -> ssl.SSLContext:
        """TLS for connections that go out."""
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def chain(self) -> list[x509.Certificate]:
        """This site's certificates."""
        try:
            return x509.load_pem_x509_certificates(self.certificate.read_bytes())
        except (OSError, ValueError) as error:
            raise self._unusable(error) from error

    def sign(self, content: bytes) -> bytes:
        """The signature of the run: RSASSA-PSS or ECDSA, with SHA-256."""
        try:
            key = _private(self.key.read_bytes())  # which may have been renewed
            if isinstance(key, ec.EllipticCurvePrivateKey):
                return key.sign(content, ec.ECDSA(SHA256()))
            if not isinstance(key, rsa.RSAPrivateKey):
                raise TypeError("its key is neither RSA nor on an elliptic curve")
            return signatures.sign(content, key)
        except (OSError, ValueError, TypeError, signatures.SignatureError) as error:
            raise self._unusable(error) from error

    def identify(self, chain: Chain) -> str:
        """The name of the site whose run holds ``chain``.

        Raises:
            Untrusted: no site of the mesh holds it, it is of another job or revoked, or it is older than one
                seen before.
        """
        try:
            identity = identify(chain, self._root, job=self.job)
        except LinkError:
            raise
        except OtherJob as error:
            raise Untrusted(Refusal.RUN, str(error)) from None
        except Exception as error:  # noqa: BLE001  (of many classes, for what a peer has written there)
            expired = any(certificate.not_valid_after_utc < datetime.now(UTC) for certificate in chain)
            raise Untrusted(Refusal.EXPIRED if expired else Refusal.UNTRUSTED, str(error)) from None
        if any(str(certificate.serial_number) in self.revoked for certificate in chain):
            raise Untrusted(Refusal.REVOKED, f"the certificate of {identity.name} is revoked")
        try:
            self._newest.admit(identity)
        except CertificateError as error:
            raise Untrusted(Refusal.OUTDATED, str(error)) from None
        return identity.name

    @cached_property
    def _newest(self) -> Newest:
        return Newest()

    @cached_property
    def _root(self) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate(self.root.read_bytes())
        except (OSError, ValueError) as error:
            raise self._unusable(error) from error

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # a certificate names a site, not a host
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(self.root)
            context.load_cert_chain(self.certificate, self.key)
        except OSError as error:
            raise self._unusable(error) from error
        return context

    def _unusable(self, error: Exception) -> LinkError:
        return LinkError(f"the certificate {self.certificate} cannot be used: {error}")
