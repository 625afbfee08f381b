"""What NVFlare keeps of a mesh between provisionings: all certificates and private keys, in one file."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from nvflare.lighter.constants import CtxKey

CERTIFICATES: Final = "cert.json"
"""The file's name."""

_ROOT_ENTRIES = {CtxKey.ROOT_CERT, CtxKey.ROOT_PRI_KEY}


class Issued:
    """The root and, per participant, the certificate and the private key.

    Args:
        content: of the file; None before the first provisioning.

    Raises:
        json.JSONDecodeError, UnicodeDecodeError: it is not JSON.
        ValueError, TypeError, LookupError, AttributeError: an entry is missing or damaged.
    """

    def __init__(self, content: bytes | None = None):
        self._entries: dict[str, Any] = {}
        if content is not None:
            self._entries = json.loads(content)
            self._check()

    @property
    def root(self) -> x509.Certificate | None:
        """The mesh's root certificate, None before the first provisioning."""
        return _parse(self._entries[CtxKey.ROOT_CERT]) if self._entries else None

    @property
    def holders(self) -> frozenset[str]:
        """The participants that have a certificate."""
        return frozenset(self._entries) - _ROOT_ENTRIES

    def certificate(self, holder: str) -> x509.Certificate:
        """The certificate of a participant that has one."""
        return _parse(self._entries[holder]["cert"])

    def forget(self, holders: Iterable[str]) -> None:
        """Drop the certificates and private keys of these participants."""
        for holder in holders:
            del self._entries[holder]

    def write(self, path: Path) -> None:
        """Write the file; there is none where nothing was issued."""
        if self._entries:
            path.write_text(json.dumps(self._entries))

    def _check(self) -> None:
        _parse(self._entries[CtxKey.ROOT_CERT])
        keys = [self._entries[CtxKey.ROOT_PRI_KEY]]
        for holder in self.holders:
            self.certificate(holder)
            keys.append(self._entries[holder]["pri_key"])
        if not all(isinstance(key, str) and key for key in keys):
            raise ValueError("a private key is missing")


def _parse(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())
