"""Whose certificate it is: what the certificates of a mesh say, and whether they hold.

The mesh's root issues two kinds of certificates. One is in each kit and says what its holder is, by its
extended key usage (RFC 5280, 4.2.1.12): serverAuth for the server alone, clientAuth for sites and admins, of
whom admins bear a role. The other one, in a site's kit, is for the same key and lets the site issue
certificates to its own runs, in its own name and in no other (4.2.1.10).

From NVFlare 2.10 on there may be a third one, of an authority for jobs: with it NVFlare's server signs a
leaf for each site of each job, whose key it makes as well. Who has the authority's key can take any site's
place in a run. Its leaves are let in because the mesh's root has made it one; `flaremesh provision` makes
none.
"""

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from flaremesh.certificate_uris import cells, jobs, names_job_authority
from flaremesh.errors import FlaremeshError

ROLE: Final = NameOID.UNSTRUCTURED_NAME
"""The attribute of the subject in which NVFlare looks for an admin's role."""

_SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH
_CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH


class CertificateError(FlaremeshError):
    """A certificate does not hold; the message says whose and why."""


class OtherJob(CertificateError):
    """A certificate that is for one job alone, and that is another one."""


class Kind(StrEnum):
    """What a holder is."""

    SERVER = "server"
    SITE = "site"
    ADMIN = "admin"


@dataclass(frozen=True)
class Identity:
    """Who holds a certificate that the mesh's root stands behind.

    Attributes:
        name: of the server or a site; an admin's e-mail address.
        org: the organisation.
        kind: what the holder is.
        role: an admin's; None for others.
        issued: since when the certificate from the kit is valid, or the job's leaf: of two with one name, and
            of one job, the later one counts.
        serial: that certificate's serial number, in decimal; for a run, that of the site's for runs.
        job: the one that NVFlare has issued the certificate for; None for one that a kit stands behind.
    """

    name: str
    org: str
    kind: Kind
    role: str | None
    issued: datetime
    serial: str
    job: str | None = None


def holder(certificate: x509.Certificate, root: x509.Certificate, revoked: Collection[str] = ()) -> Identity:
    """Who holds a certificate from a kit.

    Args:
        certificate: whose holder has proved that he has its key.
        root: of the mesh.
        revoked: serial numbers, in decimal.

    Raises:
        CertificateError: it is not of the root, not valid now, revoked, or does not say what its holder is.
    """
    _require_issued(certificate, root, revoked)
    name, usages = _name(certificate), _usages(certificate)
    roles = _texts(certificate, ROLE)
    if _is_authority(certificate) or len(usages) != 1 or len(roles) > 1:
        raise CertificateError(
            f"the certificate of {name} does not say what its holder is. It is of an earlier version: "
            "run `flaremesh provision`, and install the new kit."
        )
    others = Kind.ADMIN if roles else Kind.SITE
    return Identity(
        name=name,
        org=next(iter(_texts(certificate, NameOID.ORGANIZATION_NAME)), ""),
        kind=Kind.SERVER if usages == {_SERVER} else others,
        role=roles[0] if roles else None,
        issued=certificate.not_valid_before_utc,
        serial=str(certificate.serial_number),
    )


def identify(
    chain: Sequence[x509.Certificate],
    root: x509.Certificate,
    revoked: Collection[str] = (),
    job: str | None = None,
) -> Identity:
    """The site whose run has a certificate.

    Args:
        chain: the run's certificate and the one that issued it, the site's or that of NVFlare's authority for
            jobs; the root may follow.
        root: of the mesh.
        revoked: serial numbers, in decimal.
        job: the run's id at NVFlare; None where no job is under way: no certificate for one is let in then.

    Raises:
        OtherJob: the certificate is for another job.
        CertificateError: a certificate is not valid now, revoked, not for runs, or not in the site's name.
    """
    if len(chain) == 3 and chain[2] == root:
        chain = chain[:2]
    if len(chain) != 2:
        raise CertificateError("the certificate is not that of a run, which a site issues")
    leaf, issuer = chain
    _require_issued(issuer, root, revoked)
    if not _is_authority(issuer) or _texts(issuer, ROLE):
        raise CertificateError(f"the certificate of {_name(issuer)} is not one that issues others to runs")
    _require_issued(leaf, issuer, revoked)
    if _is_authority(leaf):
        raise CertificateError(f"the certificate that {_name(issuer)} issued is not that of a run")
    try:
        named = jobs(leaf)
        if others := [each for each in named if each != job]:
            raise OtherJob(
                f"the certificate of {_name(leaf)} is for the job {others[0]}, which is another one"
            )
        return _of_job(leaf, issuer) if names_job_authority(issuer) else _of_site(leaf, issuer)
    except ValueError as error:
        raise CertificateError(f"the certificate of {_name(leaf)} cannot be read: {error}") from None


def _of_site(leaf: x509.Certificate, issuer: x509.Certificate) -> Identity:
    """Who holds a leaf that a site has issued."""
    name = _name(issuer)
    if leaf.subject != issuer.subject:
        raise CertificateError(f"{name} issued a certificate in a name that is not its own")
    if _usages(leaf) != {_SERVER, _CLIENT}:
        raise CertificateError(f"the certificate that {name} issued is not that of a run")
    return Identity(
        name=name,
        org=next(iter(_texts(issuer, NameOID.ORGANIZATION_NAME)), ""),
        kind=Kind.SITE,
        role=None,
        issued=issuer.not_valid_before_utc,
        serial=str(issuer.serial_number),
    )


def _of_job(leaf: x509.Certificate, issuer: x509.Certificate) -> Identity:
    """Who holds a leaf that NVFlare has issued for this job."""
    name, named = _name(leaf), jobs(leaf)
    if not _signs_only_leaves(issuer):
        raise CertificateError(f"the certificate of {_name(issuer)} is not that of an authority for jobs")
    # one without a usage is for all of them; a link needs both, for either end may dial
    if _texts(leaf, ROLE) or _usages(leaf) not in (set(), {_SERVER, _CLIENT}):
        raise CertificateError(f"the certificate of {name} is not that of a job")
    if len(named) != 1:
        raise CertificateError(f"the certificate of {name} is for {len(named)} jobs instead of one")
    # NVFlare's server has the cell "server", and a site's has the site's name, below those of relays
    if not any(f".{cell}".endswith(f".{name}.{named[0]}") for cell in cells(leaf)):
        raise CertificateError(f"the certificate of {name} is not for its cell in the job {named[0]}")
    return Identity(
        name=name,
        org=next(iter(_texts(leaf, NameOID.ORGANIZATION_NAME)), ""),
        kind=Kind.SITE,
        role=None,
        issued=leaf.not_valid_before_utc,
        serial=str(leaf.serial_number),
        job=named[0],
    )


class Newest:
    """Lets in no certificate that was issued before another one that it has seen of the same name.

    So the copy of a kit that was replaced is of no use once the new one has been used. A job's leaf is
    compared with those of the same job alone: it is later than the kit without replacing it, and the next
    job's is later without replacing this one. May be used by several threads.

    Args:
        seen: since when the newest certificates from kits that were seen before are valid, by name.
    """

    def __init__(self, seen: Mapping[str, datetime] | None = None):
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str | None], datetime] = {
            (name, None): issued for name, issued in (seen or {}).items()
        }

    def admit(self, identity: Identity) -> None:
        """Let in who has proved to be ``identity``, and remember it.

        Raises:
            CertificateError: a certificate that was issued later has been seen.
        """
        whose = identity.name, identity.job
        with self._lock:
            seen = self._seen.get(whose)
            if seen and identity.issued < seen:
                raise CertificateError(
                    f"the certificate of {identity.name} from {identity.issued:%Y-%m-%d %H:%M:%S} UTC was "
                    f"replaced by one from {seen:%Y-%m-%d %H:%M:%S} UTC. Install the newest kit, and destroy "
                    "this one."
                )
            self._seen[whose] = identity.issued


def _require_issued(
    certificate: x509.Certificate, issuer: x509.Certificate, revoked: Collection[str]
) -> None:
    """Check signature, dates and revocation."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        raise CertificateError(f"the certificate was not issued by {_name(issuer)}") from None
    name, now = _name(certificate), datetime.now(UTC)
    if now > certificate.not_valid_after_utc:
        raise CertificateError(
            f"the certificate of {name} expired on {certificate.not_valid_after_utc:%Y-%m-%d}. "
            "`flaremesh provision` renews it in its last 30 days: install the new kit."
        )
    if now < certificate.not_valid_before_utc:
        raise CertificateError(
            f"the certificate of {name} is not valid before "
            f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC. Set this machine's clock."
        )
    if str(certificate.serial_number) in revoked:
        raise CertificateError(
            f"the certificate of {name} with the serial number {certificate.serial_number} is revoked. "
            "Install the newest kit, and destroy this one."
        )


def _name(certificate: x509.Certificate) -> str:
    names = _texts(certificate, NameOID.COMMON_NAME)
    if len(names) != 1:
        raise CertificateError("the certificate does not name its holder once")
    return names[0]


def _texts(certificate: x509.Certificate, oid: ObjectIdentifier) -> list[str]:
    return [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(oid)]


def _usages(certificate: x509.Certificate) -> set[ObjectIdentifier]:
    try:
        return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return set()


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _signs_only_leaves(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return constraints.critical and constraints.value.path_length == 0 and usage.key_cert_sign
