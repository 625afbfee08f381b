"""The certificates and private keys of a mesh: how long they are valid, and which must be issued anew."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flaremesh.p2p.nvflare.certificates import Issued
from flaremesh.p2p.nvflare.kits import MeshProject
from flaremesh.provision.state import StateError

RENEWAL_DAYS = 30
"""A participant's certificate with fewer days left is issued anew by the next provisioning."""


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
    """The certificates and private keys of a mesh.

    Args:
        path: the file with them; a missing one is an empty store.

    Raises:
        StateError: it is damaged.
    """

    def __init__(self, path: Path):
        self.issued = Issued()
        try:
            self.issued = Issued(path.read_bytes())
        except FileNotFoundError:
            return
        except OSError as error:
            raise _damaged(path, error.strerror or str(error)) from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise _damaged(path, "it is not JSON") from None
        except (ValueError, TypeError, LookupError, AttributeError):
            raise _damaged(path, "a certificate or a key is missing or damaged") from None

    def certificates(self) -> tuple[Certificate, ...]:
        """All certificates, the root's first, then by holder."""
        issued = self.issued
        root = [Certificate("root", issued.root.not_valid_after_utc)] if issued.root else []
        return (
            *root,
            *(
                Certificate(name, issued.certificate(name).not_valid_after_utc)
                for name in sorted(issued.holders)
            ),
        )

    def stale(self, project: MeshProject) -> dict[str, str]:
        """Participants whose certificate must be issued anew, and why; NVFlare would silently keep it."""
        known = self.issued.holders.intersection(project.participants)
        reasons = {name: self._staleness(name, project) for name in sorted(known)}
        return {name: reason for name, reason in reasons.items() if reason}

    def _staleness(self, name: str, project: MeshProject) -> str | None:
        certificate, root = self.issued.certificate(name), self.issued.root
        if difference := project.difference(certificate, name):
            return f"{difference} changed"
        days_left = Certificate(name, certificate.not_valid_after_utc).days_left
        # one that ends with the root's cannot be prolonged
        if days_left < RENEWAL_DAYS and root and certificate.not_valid_after_utc < root.not_valid_after_utc:
            return f"{days_left} days were left"
        return None


def _damaged(path: Path, why: str) -> StateError:
    return StateError(
        f"{path} holds the certificates and private keys of the mesh, and cannot be used: {why}. "
        "Restore it from a copy. Without one, provision into another folder (--output) and hand out all kits "
        "anew: the mesh gets a new root certificate, and who has it accepts none of the kits of before."
    )
