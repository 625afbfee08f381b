"""How the certificates of a mesh are made; `flaremesh.certificates` reads them."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flaremesh.certificates import ROLE, Kind

_SECOND: Final = timedelta(seconds=1)
# clocks differ, and of certificates that are issued at once each is valid a second later than the one before
_BACKDATED: Final = timedelta(hours=1)


@dataclass(frozen=True)
class Profile:
    """What a participant's certificate says.

    Attributes:
        kind: what the participant is.
        name: of the participant.
        org: its organisation.
        role: an admin's.
        hosts: the server's names and addresses.
    """

    kind: Kind
    name: str
    org: str
    role: str | None = None
    hosts: tuple[str, ...] = ()

    @property
    def subject(self) -> x509.Name:
        """The subject, in NVFlare's order."""
        parts = [(NameOID.COMMON_NAME, self.name), (NameOID.ORGANIZATION_NAME, self.org)]
        if self.role:
            parts.append((ROLE, self.role))
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])

    def difference(self, certificate: x509.Certificate) -> str | None:
        """How a certificate differs from what this says; None if it does not."""
        if certificate.subject != self.subject:
            return "organisation or role changed"
        for extension in self.extensions():
            try:
                found = certificate.extensions.get_extension_for_class(type(extension)).value
            except x509.ExtensionNotFound:
                return "it did not say what its holder is"
            if found != extension:
                return "host names changed"
        return None

    def extensions(self) -> list[x509.ExtensionType]:
        """What the kind asks for, beside what all certificates have."""
        usage = (
            ExtendedKeyUsageOID.SERVER_AUTH if self.kind is Kind.SERVER else ExtendedKeyUsageOID.CLIENT_AUTH
        )
        found: list[x509.ExtensionType] = [x509.ExtendedKeyUsage([usage])]
        if self.hosts:
            found.append(x509.SubjectAlternativeName([_host(host) for host in self.hosts]))
        return found


class Authority:
    """The mesh's root.

    Args:
        certificate: its certificate.
        key: its private key.
    """

    def __init__(self, certificate: x509.Certificate, key: rsa.RSAPrivateKey):
        self.certificate = certificate
        self.key = key

    @classmethod
    def new(cls, mesh: str, days: int) -> "Authority":
        """A new one for the mesh of this name, valid for ``days``."""
        key, since = new_key(), _since()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, mesh)])
        builder = (
            _builder(name, key.public_key(), name, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(since)
            .not_valid_after(since + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage("digital_signature", "key_cert_sign", "crl_sign"), critical=True)
        )
        return cls(builder.sign(key, SHA256()), key)

    def issue(
        self, profile: Profile, key: rsa.RSAPublicKey, days: int, before: x509.Certificate | None = None
    ) -> x509.Certificate:
        """A certificate for a participant's kit.

        Args:
            profile: what it says.
            key: the participant's.
            days: of validity, as far as the root's reaches.
            before: the participant's former certificate: the new one is valid from a later second on.
        """
        since = _since()
        if before:
            since = max(since, before.not_valid_before_utc + _SECOND)
        builder = (
            self._builder(profile.subject, key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(since)
            .not_valid_after(min(since + timedelta(days=days), self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage("digital_signature"), critical=True)
        )
        for extension in profile.extensions():
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, SHA256())

    def for_runs(self, site: x509.Certificate) -> x509.Certificate:
        """The certificate with which a site issues those of its runs; the same one at each call.

        Args:
            site: the certificate in the site's kit.
        """
        everywhere: list[x509.GeneralName] = [
            x509.DNSName(""),
            x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
            x509.IPAddress(ipaddress.ip_network("::/0")),
        ]
        key = site.public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        return (
            self._builder(site.subject, key)
            .serial_number(site.serial_number + 1)
            .not_valid_before(site.not_valid_before_utc)
            .not_valid_after(site.not_valid_after_utc)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage("key_cert_sign"), critical=True)
            .add_extension(
                x509.NameConstraints([x509.DirectoryName(site.subject)], everywhere), critical=True
            )
            .sign(self.key, SHA256())
        )

    def _builder(self, subject: x509.Name, key: rsa.RSAPublicKey) -> x509.CertificateBuilder:
        return _builder(subject, key, self.certificate.subject, self.key.public_key())


def run_certificate(
    issuer: x509.Certificate,
    site_key: rsa.RSAPrivateKey,
    run_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    lifetime: timedelta,
) -> x509.Certificate:
    """A certificate for a run of a site, in the site's name.

    Args:
        issuer: the site's certificate for this, ``runs.crt`` in its kit.
        site_key: the site's private key.
        run_key: the run's public key.
        lifetime: of the certificate, as far as the site's own reaches.
    """
    since = max(datetime.now(UTC) - timedelta(minutes=5), issuer.not_valid_before_utc)  # clocks differ
    return (
        # its key identifiers tell it from one that signed itself: subject and issuer have the same name
        _builder(issuer.subject, run_key, issuer.subject, site_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(min(datetime.now(UTC) + lifetime, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage("digital_signature"), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
            critical=False,
        )
        # without it gRPC takes the common name for a host's, which is excluded
        .add_extension(x509.SubjectAlternativeName([x509.DirectoryName(issuer.subject)]), critical=False)
        .sign(site_key, SHA256())
    )


def new_key() -> rsa.RSAPrivateKey:
    """A new private key."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def read_key(pem: bytes) -> rsa.RSAPrivateKey:
    """The private key in a text.

    Raises:
        ValueError: there is none, or it is no RSA key.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise ValueError("the private key is encrypted") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("the private key is no RSA key")  # noqa: TRY004  (a wrong content, not a wrong type)
    return key


def key_pem(key: rsa.RSAPrivateKey) -> bytes:
    """A private key as text, in the form in which NVFlare writes keys."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def pem(*certificates: x509.Certificate) -> bytes:
    """Certificates as text, one after the other."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _builder(
    subject: x509.Name,
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    issuer_key: rsa.RSAPublicKey,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _since() -> datetime:
    """Since when a certificate that is issued now is valid."""
    return datetime.now(UTC).replace(microsecond=0) - _BACKDATED


def _key_usage(*usages: str) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: name in usages for name in names})


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
