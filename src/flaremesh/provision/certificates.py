"""The certificates and private keys of a mesh, as NVFlare keeps them between provisionings."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from nvflare.lighter.constants import CtxKey, ParticipantType, PropKey
from nvflare.lighter.entity import Participant, Project
from nvflare.lighter.utils import build_subject_alt_names, x509_name

from flaremesh.provision.state import StateError

RENEWAL_DAYS = 30
"""A participant's certificate with fewer days left is issued anew by the next provisioning."""

_ROOT_ENTRIES = {CtxKey.ROOT_CERT, CtxKey.ROOT_PRI_KEY}


@dataclass(frozen=True)
class Certificate:
    """A certificate's holder and end.

    Attributes:
        holder: name of the participant, or "root".
        expires: when its validity ends.
    """

    holder: str
    expires: datetime

    @property
    def days_left(self) -> int:
        """Whole days of validity left, negative once it has expired."""
        return (self.expires - datetime.now(UTC)).days


class CertificateStore:
    """NVFlare's ``cert.json``: the root and, per participant, the certificate and the private key.

    Args:
        path: the file; a missing one is an empty store.

    Raises:
        StateError: it is damaged.
    """

    def __init__(self, path: Path):
        self._content: dict[str, Any] = {}
        try:
            self._content = json.loads(path.read_bytes())
            self._check()
        except FileNotFoundError:
            return
        except OSError as error:
            raise _damaged(path, error.strerror or str(error)) from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise _damaged(path, "it is not JSON") from None
        except (ValueError, TypeError, LookupError, AttributeError):
            raise _damaged(path, "a certificate or a key is missing or damaged") from None

    def _check(self) -> None:
        """Raise an error of whatever kind if something is missing, or is not what it should be."""
        _parse(self._content[CtxKey.ROOT_CERT])
        keys = [self._content[CtxKey.ROOT_PRI_KEY]]
        for holder in self.holders:
            self._of(holder)
            keys.append(self._content[holder]["pri_key"])
        if not all(isinstance(key, str) and key for key in keys):
            raise ValueError

    @property
    def root(self) -> x509.Certificate | None:
        """The mesh's root certificate, None before the first provisioning."""
        return _parse(self._content[CtxKey.ROOT_CERT]) if self._content else None

    @property
    def holders(self) -> frozenset[str]:
        """The participants that have a certificate."""
        return frozenset(self._content) - _ROOT_ENTRIES

    def certificates(self) -> tuple[Certificate, ...]:
        """All certificates, the root's first, then by holder."""
        root = [Certificate("root", self.root.not_valid_after_utc)] if self.root else []
        return (
            *root,
            *(Certificate(name, self._of(name).not_valid_after_utc) for name in sorted(self.holders)),
        )

    def stale(self, project: Project) -> dict[str, str]:
        """Participants whose certificate must be issued anew, and why; NVFlare would silently keep it."""
        known = [p for p in project.get_all_participants() if p.subject in self.holders]
        reasons = {participant.subject: self._staleness(participant) for participant in known}
        return {holder: reason for holder, reason in reasons.items() if reason}

    def forget(self, holders: Iterable[str]) -> None:
        """Drop certificates and private keys."""
        for holder in holders:
            del self._content[holder]

    def write(self, path: Path) -> None:
        """Write the file; an empty store has none."""
        if self._content:
            path.write_text(json.dumps(self._content))

    def _of(self, holder: str) -> x509.Certificate:
        return _parse(self._content[holder]["cert"])

    def _staleness(self, participant: Participant) -> str | None:
        certificate = self._of(participant.subject)
        role = participant.get_prop(PropKey.ROLE) if participant.type == ParticipantType.ADMIN else None
        if certificate.subject != x509_name(participant.subject, participant.org, role):
            return "organisation or role changed"
        if _names_of(certificate) != _names_for(participant):
            return "host names changed"
        days_left = Certificate(participant.subject, certificate.not_valid_after_utc).days_left
        # one that ends with the root's cannot be prolonged
        if (
            days_left < RENEWAL_DAYS
            and self.root
            and certificate.not_valid_after_utc < self.root.not_valid_after_utc
        ):
            return f"{days_left} days were left"
        return None


def _damaged(path: Path, why: str) -> StateError:
    return StateError(
        f"{path} holds the certificates and private keys of the mesh, and cannot be used: {why}. "
        "Restore it from a copy. Without one, provision into another folder (--output) and hand out all kits "
        "anew: the mesh gets a new root certificate, and who has it accepts none of the kits of before."
    )


def _parse(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def _names_of(certificate: x509.Certificate) -> set[x509.GeneralName]:
    return set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def _names_for(participant: Participant) -> set[x509.GeneralName]:
    if participant.type != ParticipantType.SERVER:
        return set(build_subject_alt_names(fallback_subject_name=participant.subject))
    return set(
        build_subject_alt_names(participant.get_default_host(), participant.get_prop(PropKey.HOST_NAMES))
    )
