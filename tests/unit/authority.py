"""Certificates as the kits have them, of any root and with any validity."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from flaremesh.links.direct import Credentials


class Authority:
    """A root that issues certificates into ``folder``."""

    def __init__(self, folder):
        folder.mkdir()
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._root = self._sign(_named("root"), self._key, _named("root"), 30, ca=True)
        self.file = folder / "rootCA.pem"
        self.file.write_bytes(self._root.public_bytes(serialization.Encoding.PEM))

    def issue(self, name, days=30, root=None):
        """Credentials for ``name``, expired if ``days`` is negative, that trust ``root`` or else this one."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(_named(name), key, self._root.subject, days)
        stem = f"{name}-{days}-{len(list(self._folder.iterdir()))}"
        certificate_file, key_file = self._folder / f"{stem}.crt", self._folder / f"{stem}.key"
        certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return Credentials(certificate_file, key_file, (root or self).file)

    def _sign(self, subject, key, issuer, days, *, ca=False):
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=60))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )


def _named(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
