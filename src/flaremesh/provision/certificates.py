"""The certificates and private keys of a mesh: how long they are valid, and which must be issued anew."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from flaremesh.certificates import Kind
from flaremesh.issuing import Authority, Profile, key_pem, new_key, pem, read_key
from flaremesh.p2p.nvflare.startup import ROOT, RUNS, files_of
from flaremesh.provision.state import StateError
from flaremesh.topology.schema import SERVER, Topology

CERTIFICATES: Final = Path("state", "cert.json")
"""In a mesh's folder: the root and, per participant, certificate and private key."""

RENEWAL_DAYS = 30
"""A participant's certificate with fewer days left is issued anew by the next provisioning."""

_ROOT, _ROOT_KEY, _CERTIFICATE, _KEY = "root_cert", "root_pri_key", "cert", "pri_key"  # NVFlare's words


@dataclass(frozen=True)
class Certificate:
    """What there is to know of a certificate.

    Attributes:
        holder: name of the participant, or "root".
        expires: when its validity ends.
        serial: its serial number.
    """

    holder: str
    expires: datetime
    serial: int

    @property
    def days_left(self) -> int:
        """Whole days of validity left, negative once it has expired."""
        return (self.expires - datetime.now(UTC)).days


def profiles(topology: Topology) -> dict[str, Profile]:
    """What each participant's certificate is to say."""
    server = topology.server
    # localhost: an admin of a cluster reaches the server through a forwarded port
    hosts = tuple(dict.fromkeys([server.host, *server.names, "localhost"]))
    return {
        SERVER: Profile(Kind.SERVER, SERVER, server.org, hosts=hosts),
        **{site.name: Profile(Kind.SITE, site.name, site.org) for site in topology.sites},
        **{admin.email: Profile(Kind.ADMIN, admin.email, admin.org, admin.role) for admin in topology.admins},
    }


@dataclass
class _Held:
    """A participant's certificate and private key, as text; None: the participant keeps the key."""

    certificate: x509.Certificate
    key: str | None


class CertificateStore:
    """The certificates and private keys of a mesh.

    Args:
        path: the file with them; a missing one is an empty store.

    Attributes:
        authority: the root; None before the first provisioning.

    Raises:
        StateError: the file is damaged.
    """

    def __init__(self, path: Path):
        self.authority: Authority | None = None
        self._held: dict[str, _Held] = {}
        try:
            self._load(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return
        except OSError as error:
            raise _damaged(path, error.strerror or str(error)) from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise _damaged(path, "it is not JSON") from None
        except (ValueError, TypeError, LookupError, AttributeError):
            raise _damaged(path, "a certificate or a key is missing or damaged") from None

    @property
    def holders(self) -> frozenset[str]:
        """The participants that have a certificate."""
        return frozenset(self._held)

    def certificates(self) -> tuple[Certificate, ...]:
        """All certificates, the root's first, then by holder."""
        found = {name: held.certificate for name, held in sorted(self._held.items())}
        if self.authority:
            found = {"root": self.authority.certificate} | found
        return tuple(
            Certificate(name, certificate.not_valid_after_utc, certificate.serial_number)
            for name, certificate in found.items()
        )

    def stale(self, wanted: Mapping[str, Profile]) -> dict[str, str]:
        """Participants whose certificate must be issued anew, and why."""
        known = sorted(self.holders & wanted.keys())
        reasons = {name: self._staleness(name, wanted[name]) for name in known}
        return {name: reason for name, reason in reasons.items() if reason}

    def issue(
        self,
        authority: Authority,
        profile: Profile,
        days: int,
        own_key: rsa.RSAPublicKey | None = None,
    ) -> None:
        """Issue a participant a new certificate.

        Args:
            authority: the root.
            profile: what the certificate is to say.
            days: of validity.
            own_key: of a participant that made it itself; others get a new one.
        """
        self.authority = authority
        before = self._held.get(profile.name)
        former = before.certificate if before else None
        if own_key:
            self._held[profile.name] = _Held(authority.issue(profile, own_key, days, former), None)
            return
        key = new_key()
        certificate = authority.issue(profile, key.public_key(), days, former)
        self._held[profile.name] = _Held(certificate, key_pem(key).decode())

    def own_key(self, name: str) -> rsa.RSAPublicKey | None:
        """The public key of a participant that made its key itself."""
        held = self._held.get(name)
        if held is None or held.key is not None:
            return None
        key = held.certificate.public_key()
        assert isinstance(key, rsa.RSAPublicKey), "requests with others are refused"
        return key

    def forget(self, holders: Iterable[str]) -> None:
        """Drop the certificates and private keys of these participants."""
        for holder in holders:
            del self._held[holder]

    def startup(self, profile: Profile) -> dict[str, bytes]:
        """The files that make a kit its owner's, by their names in its ``startup``."""
        assert self.authority, "certificates were issued"
        held = self._held[profile.name]
        names = files_of(Path(), is_server=profile.kind is Kind.SERVER)
        files = {names.certificate.name: pem(held.certificate), ROOT: pem(self.authority.certificate)}
        if held.key is not None:
            files[names.key.name] = held.key.encode()
        if profile.kind is Kind.SITE:
            files[RUNS] = pem(self.authority.for_runs(held.certificate))
        return files

    def json(self) -> str:
        """The content of the file."""
        assert self.authority, "certificates were issued"
        document: dict[str, Any] = {
            _ROOT: pem(self.authority.certificate).decode(),
            _ROOT_KEY: key_pem(self.authority.key).decode(),
        }
        for name, held in self._held.items():
            document[name] = {_CERTIFICATE: pem(held.certificate).decode(), _KEY: held.key}
        return json.dumps(document)

    def _staleness(self, name: str, wanted: Profile) -> str | None:
        certificate = self._held[name].certificate
        if difference := wanted.difference(certificate):
            return difference
        assert self.authority, "who has a certificate has it from a root"
        end = self.authority.certificate.not_valid_after_utc
        days_left = Certificate(name, certificate.not_valid_after_utc, certificate.serial_number).days_left
        # one that ends with the root's cannot be prolonged
        if days_left < RENEWAL_DAYS and certificate.not_valid_after_utc < end:
            return f"{days_left} days were left"
        return None

    def _load(self, document: Any) -> None:
        certificate, key = _certificate(document.pop(_ROOT)), read_key(document.pop(_ROOT_KEY).encode())
        self.authority = Authority(certificate, key)
        for name, entry in document.items():
            text = entry[_KEY]
            if text is not None and "PRIVATE KEY-----" not in text:
                raise ValueError(f"the private key of {name} is missing")
            self._held[name] = _Held(_certificate(entry[_CERTIFICATE]), text)


def _certificate(text: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(text.encode())


def _damaged(path: Path, why: str) -> StateError:
    return StateError(
        f"{path} holds the certificates and private keys of the mesh, and cannot be used: {why}. "
        "Restore it from a copy. Without one, provision into another folder (--output) and hand out all kits "
        "anew: the mesh gets a new root certificate, and who has it accepts none of the kits of before."
    )
