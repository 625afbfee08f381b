"""Certificates as the runs of sites have them, of any root and with any validity."""

import functools
from datetime import UTC, datetime, timedelta
from itertools import count

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from flaremesh.links.credentials import Credentials


class Authority:
    """A root that issues certificates into ``folder``."""

    def __init__(self, folder):
        folder.mkdir()
        self._folder, self._numbers = folder, count()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._root = _sign(_named("root"), self._key.public_key(), _named("root"), self._key, 30, ca=None)
        self.file = folder / "rootCA.pem"
        self.file.write_bytes(self._root.public_bytes(Encoding.PEM))

    def issue(
        self, name, days=30, root=None, *, since=-60, issuer=None, revoked=(), rsa_key=False, garbled=False
    ):
        """Credentials for a run of ``name``, expired if ``days`` is negative.

        They trust ``root``, or else the one that issues them. The site's own certificate counts from
        ``since`` days on, and is that of ``issuer`` if one is given. What a ``garbled`` one says of TLS is
        nonsense that OpenSSL does not look at.
        """
        site, run = _key(), _rsa_key() if rsa_key else _key()
        named = _named(issuer or name)
        runs = _sign(named, site.public_key(), self._root.subject, self._key, days, since, ca=0)
        leaf = _sign(_named(name), run.public_key(), named, site, days, since, usages=_BOTH, garbled=garbled)
        return self._written(name, [leaf, runs], run, root or self.file, revoked)

    def kit(self, name, usages, rsa_key=False):
        """Credentials that the root issued itself, as they are in a kit."""
        key = _rsa_key() if rsa_key else _key()
        leaf = _sign(_named(name), key.public_key(), self._root.subject, self._key, 30, usages=usages)
        return self._written(name, [leaf], key, self.file, ())

    def _written(self, name, chain, key, root, revoked):
        stem = self._folder / f"{name}-{next(self._numbers)}"
        certificate_file, key_file = stem.with_suffix(".crt"), stem.with_suffix(".key")
        certificate_file.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in chain))
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return Credentials(certificate_file, key_file, root, revoked)


_CLIENT, _SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
_BOTH = (_CLIENT, _SERVER)


def _key():
    return ec.generate_private_key(ec.SECP256R1())


@functools.cache  # it takes a tenth of a second
def _rsa_key():
    return rsa.generate_private_key(65537, 2048)


def _sign(subject, key, issuer, issuer_key, days, since=-60, *, ca=False, usages=(), garbled=False):
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=since))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .add_extension(
            x509.BasicConstraints(ca=ca is not False, path_length=ca if ca is not False else None),
            critical=True,
        )
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if garbled:
        builder = builder.add_extension(x509.UnrecognizedExtension(ExtensionOID.TLS_FEATURE, b"?"), False)
    return builder.sign(issuer_key, hashes.SHA256())


def _named(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
