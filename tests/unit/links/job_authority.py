"""A mesh's root, and what NVFlare 2.10 issues below it: an authority for jobs, and leaves of jobs.

They are as NVFlare writes them: a leaf bears no usage and no constraint, and says in URIs for which job and
cells it is.
"""

from datetime import UTC, datetime, timedelta
from itertools import count

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flaremesh.links.credentials import Credentials

URIS = "https://nvidia.com/nvflare/v1/"
AUTHORITY = [URIS + "ca/job"]
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
ROLE = NameOID.UNSTRUCTURED_NAME


def uris_of(site, job="run", *, under=""):
    """What the leaf of a site's job says."""
    cells = [f"{under}{site}.{job}", f"{under}{site}.ws_transfer_{job}"]
    return [f"{URIS}job/{job}", *(f"{URIS}cell/{cell}" for cell in cells)]


class Holder:
    """A certificate and its key."""

    def __init__(self, certificate, key):
        self.certificate, self.key = certificate, key


class JobAuthority:
    """A root that issues certificates into ``folder``, and its authority for jobs."""

    def __init__(self, folder):
        folder.mkdir()
        self._folder, self._numbers = folder, count()
        key = ec.generate_private_key(ec.SECP256R1())
        self.root = self.sign("root", None, key, path=None)
        self.jobs = self.sign("job_ca.mesh", self.root, path=0, uris=AUTHORITY)
        self.file = folder / "rootCA.pem"
        self.file.write_bytes(self.root.certificate.public_bytes(Encoding.PEM))

    def sign(self, name, issuer, key=None, *, path=False, uris=(), days=30, since=-10, usages=(), role=None):
        """A certificate; ``path``: how many may follow an authority's, None for any number."""
        key, now = key or ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        signing = issuer.key if issuer else key
        parts = [(NameOID.COMMON_NAME, name), *([(ROLE, role)] if role else [])]
        subject = x509.Name([x509.NameAttribute(oid, text) for oid, text in parts])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=since))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False
            )
        )
        if path is not False:
            usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path), critical=True)
            builder = builder.add_extension(usage, critical=True)
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if uris:
            names = [x509.UniformResourceIdentifier(uri) for uri in uris]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return Holder(builder.sign(signing, SHA256()), key)

    def leaf(self, site, issuer=None, **options):
        """What a job of ``site`` has got, as NVFlare would have issued it but for ``options`` of `sign`."""
        issuer = issuer or self.jobs
        return self.written(self.sign(site, issuer, **{"uris": uris_of(site)} | options), issuer)

    def run(self, site, **options):
        """What a site has issued to its run, as flaremesh does."""
        issuer = self.sign(site, self.root, path=0)
        return self.written(self.sign(site, issuer, usages=[CLIENT, SERVER], **options), issuer)

    def written(self, leaf, *issuers, job="run", revoked=()):
        """Credentials for what ``leaf`` is followed by ``issuers``, for a link of ``job``."""
        stem = self._folder / str(next(self._numbers))
        chain = [holder.certificate.public_bytes(Encoding.PEM) for holder in (leaf, *issuers)]
        stem.with_suffix(".crt").write_bytes(b"".join(chain))
        pem = leaf.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        stem.with_suffix(".key").write_bytes(pem)
        return Credentials(stem.with_suffix(".crt"), stem.with_suffix(".key"), self.file, revoked, job)
