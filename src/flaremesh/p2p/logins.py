"""Decides who may log in at the server, and remembers it in the server's workspace."""

import hashlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Final, get_args

from cryptography import x509

from flaremesh import atomic
from flaremesh.certificates import CertificateError, Identity, Newest, holder, identify
from flaremesh.errors import FlaremeshError
from flaremesh.p2p import charter
from flaremesh.p2p.nvflare.logins import Refused
from flaremesh.p2p.nvflare.startup import startup_files
from flaremesh.record import Schema

_log = logging.getLogger(__name__)

LOGINS: Final = "logins.json"
"""The file in the server's workspace."""


@dataclass(frozen=True)
class Login:
    """The last login with the newest certificate of a name.

    Attributes:
        issued: since when the certificate is valid.
        serial: its serial number, in decimal.
        token_digest: SHA-256 of the token that a site got, in hexadecimal; empty for an admin.
    """

    issued: datetime
    serial: str
    token_digest: str = ""


@dataclass(frozen=True)
class _Memory:
    logins: Mapping[str, Login] = field(default_factory=dict)


_MEMORY: Final[Schema[_Memory]] = Schema(_Memory, "what a server remembers of logins")


class Logins:
    """The logins at a server: a certificate that is revoked, or older than one seen before, is refused.

    While the kit or the file cannot be read, everybody is refused. May be used by several threads.

    Args:
        workspace: the server's.

    Attributes:
        refusals: how many connections, logins and messages were refused.
    """

    def __init__(self, workspace: Path):
        self.refusals: dict[Refused, int] = dict.fromkeys(get_args(Refused), 0)
        self._startup = workspace / "startup"
        self._file = workspace / LOGINS
        self._lock = threading.Lock()

    def admit(self, certificate: x509.Certificate) -> Identity:
        """Let in who has proved to have the key of a certificate.

        Raises:
            CertificateError: this participant may not log in.
        """
        with self._lock, _in_words():
            identity = holder(certificate, self._root, self._revoked)
            last = self._require_newest(identity)
            if last is None or last.serial != identity.serial:
                self._note(identity.name, Login(identity.issued, identity.serial))
            return identity

    def meet(self, chain: Sequence[x509.Certificate]) -> None:
        """Let in a connection, of a participant or of a site's run.

        Args:
            chain: the certificates that its other end has proved to have, without the root.

        Raises:
            CertificateError: whose connection it is may not connect.
        """
        with self._lock, _in_words():
            if len(chain) == 1:
                self._require_newest(holder(chain[0], self._root, self._revoked))
            else:
                self._require_newest(identify(chain, self._root, self._revoked))

    def remember(self, site: str, token: str) -> None:
        """Note the token that a site got when it was let in.

        Raises:
            CertificateError: it cannot be written down.
        """
        with self._lock, _in_words():
            self._note(site, replace(self._logins[site], token_digest=_digest(token)))

    def knows(self, name: str, token: str) -> bool:
        """Whether a token is that of the last login; names of which no token is known may have any."""
        with self._lock, _in_words():
            last = self._logins.get(name)
            if last is None or not last.token_digest:
                return True
            return last.token_digest == _digest(token) and last.serial not in self._revoked

    def refused(self, what: Refused, why: str) -> None:
        """Log and count what was refused."""
        _log.error("%s refused: %s", what, why)
        with self._lock:
            self.refusals[what] += 1

    def _require_newest(self, identity: Identity) -> Login | None:
        """Check that no later certificate has been used; returns the login with the last one."""
        last = self._logins.get(identity.name)
        Newest({identity.name: last.issued} if last else {}).admit(identity)
        return last

    @cached_property
    def _root(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(startup_files(self._startup).root.read_bytes())

    @cached_property
    def _revoked(self) -> frozenset[str]:
        return frozenset(charter.read(self._startup).revoked)

    @cached_property
    def _logins(self) -> dict[str, Login]:
        if not self._file.exists():
            return {}
        return dict(_MEMORY.read(self._file.read_bytes(), self._file).logins)

    def _note(self, name: str, login: Login) -> None:
        logins = self._logins | {name: login}
        atomic.write(self._file, _MEMORY.json(_Memory(logins), indent=2) + "\n", durable=True)
        self._logins[name] = login


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except CertificateError:
        raise
    except (OSError, ValueError, FlaremeshError) as error:
        raise CertificateError(f"the server cannot tell who may log in: {error}") from error


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
