"""A site's workspace with a kit's keys, and what a run asks of it."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from flaremesh.p2p.gate.request import RunRequest


class Root:
    """A mesh's root, which gives sites their keys."""

    def __init__(self):
        self._key, self._keys = _key(), {}
        self.certificate = self._issued("mesh", self._key, ca=True)

    def renew(self, workspace, name="bonn"):
        """Put a new key and its certificate into a workspace."""
        del self._keys[name]
        return self.equip(workspace, name)

    def equip(self, workspace, name="bonn"):
        """Put a site's key and its certificate into a workspace."""
        startup = workspace / "startup"
        startup.mkdir(parents=True, exist_ok=True)
        key = self._keys[name] = self._keys.get(name) or _key()
        (startup / "client.key").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        (startup / "client.crt").write_bytes(self._issued(name, key).public_bytes(Encoding.PEM))
        (startup / "rootCA.pem").write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return workspace

    def _issued(self, name, key, *, ca=False):
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named("mesh"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )


def _key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _named(name):
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "ukb"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


@pytest.fixture(scope="session")
def root():
    return Root()


@pytest.fixture
def workspace(root, tmp_path):
    return root.equip(tmp_path / "bonn")


@pytest.fixture
def request_of():
    """A run's request, any field of which a test may replace."""

    def make(**fields):
        usual = {
            "run": "run-1",
            "job": "8a5f",
            "mesh": "ring3",
            "submitter": "lead@consortium.org",
            "org": "consortium",
            "role": "lead",
            "algorithm": "gtadam",
            "problem": "hospital.models.Segmentation",
            "code": {"hospital.models": "a" * 64},
            "sites": ("heidelberg", "bonn", "aachen"),
            "peers": ("heidelberg",),
            "links": "direct",
            "at": datetime(2027, 3, 1, 12, tzinfo=UTC),
        }
        return RunRequest(**usual | fields)

    return make
