"""Signatures of files that anybody verifies with ``minisign -V``: https://jedisct1.github.io/minisign/#signature-format.

The secret key is one of ``minisign -G``; it stays with whoever signs, and never lies beside what it signs.
"""

import base64
import binascii
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flaremesh.errors import FlaremeshError

_LENGTHS = (
    2,
    2,
    2,
    32,
    8,
    8,
    104,
)  # of algorithm, key derivation, checksum, salt, its two limits, and the key
_MOST_MEMORY = 2**30  # bytes that deriving a key from a password may take; minisign's own default


class SigningError(FlaremeshError):
    """A key cannot sign; the message says why and what to do."""

    exit_code = 2


class SecretKey:
    """A key that signs.

    Args:
        file: as ``minisign -G`` writes it.
        password: asks for the password of an encrypted key.

    Attributes:
        public: the public key as ``minisign -P`` takes it.

    Raises:
        SigningError: the file is no such key, or the password is wrong.
    """

    def __init__(self, file: Path, password: Callable[[], str]):
        try:
            content = base64.b64decode(file.read_bytes().splitlines()[1], validate=True)
        except (OSError, IndexError, binascii.Error) as error:
            raise SigningError(
                f"{file} is no secret key of minisign: {error}. Make one: minisign -G"
            ) from None
        algorithm, derivation, _, salt, operations, memory, key = _split(content, _LENGTHS, file)
        if algorithm != b"Ed" or derivation not in (b"Sc", bytes(2)):
            raise SigningError(f"{file} is no secret key of minisign. Make one: minisign -G")
        if derivation == b"Sc":
            limits = int.from_bytes(operations, "little"), int.from_bytes(memory, "little")
            key = _decrypted(key, password(), salt, *limits)
        self._number, seed, public = key[:8], key[8:40], key[40:72]
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        if self._key.public_key().public_bytes_raw() != public:
            raise SigningError(f"the password is wrong, or {file} is damaged")
        self.public = base64.b64encode(algorithm + self._number + public).decode()

    def sign(self, file: Path) -> Path:
        """Write the signature of a file beside it, and return its path."""
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "blake2b").digest()
        signature = self._key.sign(digest)
        comment = f"timestamp:{time.time():.0f}\tfile:{file.name}\thashed"
        lines = (
            "untrusted comment: verify with a public key that you did not get together with the file",
            base64.b64encode(b"ED" + self._number + signature).decode(),
            f"trusted comment: {comment}",
            base64.b64encode(self._key.sign(signature + comment.encode())).decode(),
        )
        written = signature_of(file)
        written.write_text("".join(f"{line}\n" for line in lines))
        return written


def signature_of(file: Path) -> Path:
    """Where the signature of a file is, if it has one."""
    return file.with_name(f"{file.name}.minisig")


def _split(content: bytes, lengths: tuple[int, ...], file: Path) -> list[bytes]:
    if len(content) != sum(lengths):
        raise SigningError(f"{file} is no secret key of minisign. Make one: minisign -G")
    parts = []
    for length in lengths:
        parts.append(content[:length])
        content = content[length:]
    return parts


def _decrypted(key: bytes, password: str, salt: bytes, operations: int, memory: int) -> bytes:
    """The key without its password: scrypt, with the costs that libsodium makes of the two limits."""
    memory = min(memory, _MOST_MEMORY)
    operations, block = max(operations, 2**15), 8
    if operations < memory // 32:
        rounds, most = 1, operations // (block * 4)
    else:
        rounds, most = 0, memory // (block * 128)
    cost = 2
    while cost <= most // 2:
        cost *= 2
    rounds = rounds or max(min(operations // 4 // cost, 2**30 - 1) // block, 1)
    stream = hashlib.scrypt(
        password.encode(), salt=salt, n=cost, r=block, p=rounds, maxmem=2 * _MOST_MEMORY - 1, dklen=len(key)
    )
    return bytes(ours ^ theirs for ours, theirs in zip(key, stream, strict=True))
