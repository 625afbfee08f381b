"""The audit log of a site: append-only, chained by hashes, signed with the site's key.

Each line is a JSON object with ``sequence`` (from 1), ``time``, ``event``, the event's fields,
``certificate`` (serial number, in decimal, of the site's certificate), ``previous`` (SHA-256 of the line
before, hexadecimal) and at last ``signature``: RSASSA-PSS, in base64, over the object without it. The
certificates lie beside the log, since a renewal takes them out of the kit.
"""

import base64
import fcntl
import hashlib
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from flaremesh import atomic
from flaremesh.errors import FlaremeshError
from flaremesh.p2p.nvflare.startup import startup_files
from flaremesh.signatures import SignatureError, sign
from flaremesh.signatures import verify as verify_signature

GATE_FOLDER: Final = "gate"
"""The folder in a site's workspace with what its gate keeps."""

LOG: Final = "audit.jsonl"
HEAD: Final = "audit.head"
"""Beside the log: number and SHA-256 of its last line, so that lines cut off at the end are missed."""

TORN: Final = "torn"
"""Event of a line that says what a process that ended while it wrote has left before it."""

_CERTIFICATES = "certificates"
_FIRST = "0" * 64
_SIGNATURE = ', "signature": "'
_BLOCK = 1 << 16
_AGAIN_SECONDS = 5.0  # until notes are tried again that could not be written

_log = logging.getLogger(__name__)


class AuditError(FlaremeshError):
    """The log cannot go on, or is not what the site wrote; the message names the line."""


class AuditLog:
    """A site's log. Several processes of the site may write to it.

    Args:
        workspace: the site's.
    """

    def __init__(self, workspace: Path):
        self._folder = workspace / GATE_FOLDER
        files = startup_files(workspace / "startup")
        self._key, self._certificate = files.key, files.certificate

    def note(self, event: str, **fields: Any) -> None:
        """Add a line, and wait until it would outlast a power cut.

        Args:
            event: what happened, in a word.
            fields: what is to be known of it, as JSON has it.

        Raises:
            AuditError: the log does not end with the line that was written last: somebody changed it.
            OSError, SignatureError: the line cannot be written or signed.
        """
        certificate = x509.load_pem_x509_certificate(self._certificate.read_bytes())
        with self._opened() as file:
            self._keep(certificate)
            last, rest, begun = _end(file)
            number = _fields(last)["sequence"] if last else 0
            previous = _sha256(last) if last else _FIRST
            known = _head(self._folder)
            if number < known.number or (number == known.number and previous != known.sha256):
                raise AuditError(
                    f"{self._folder / LOG} does not end with line {known.number}, which was written last: "
                    f"somebody changed it. Keep it for whoever looks into this: move {LOG} and {HEAD} away."
                )
            events: list[tuple[str, Mapping[str, Any]]] = [(event, fields)]
            if rest:  # a process ended while it wrote; what it left stays, and the next line says so
                events.insert(0, (TORN, {"bytes": len(rest), "sha256": _sha256(rest)}))
            added = b"\n" if begun else b""
            for name, said in events:
                number += 1
                line = self._line(number, name, said, str(certificate.serial_number), previous)
                previous = _sha256(line)
                added += line + b"\n"
            file.write(added)
            file.flush()
            os.fsync(file.fileno())
            atomic.write(self._folder / HEAD, f"{number} {previous}\n", durable=True)

    def _line(
        self, sequence: int, event: str, fields: Mapping[str, Any], serial: str, previous: str
    ) -> bytes:
        who = {"certificate": serial, "previous": previous}
        said = {"sequence": sequence, "time": _now(), "event": event, **fields, **who}
        body = json.dumps(said, allow_nan=False)
        signature = base64.b64encode(sign(body.encode(), self._key.read_bytes())).decode()
        return f'{body[:-1]}{_SIGNATURE}{signature}"}}'.encode()

    def _keep(self, certificate: x509.Certificate) -> None:
        file = self._folder / _CERTIFICATES / f"{certificate.serial_number}.crt"
        if not file.exists():
            file.parent.mkdir(mode=0o700, exist_ok=True)
            atomic.write(file, certificate.public_bytes(Encoding.PEM), durable=True)

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        opened = os.open(self._folder / LOG, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(opened, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file


class LateNotes:
    """Notes of what has happened in any case: where the log cannot be written, they wait in memory.

    Meanwhile nothing else is let in, so that they stay few. A note that came late says when it happened.

    Args:
        log: the log.
    """

    def __init__(self, log: AuditLog):
        self._log = log
        self._adding = threading.Lock()
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()

    def add(self, event: str, **fields: Any) -> None:
        """As AuditLog.note, now or as soon as it can be."""
        with self._adding:
            self._waiting.append((event, fields))
            if len(self._waiting) == 1:
                self._write()
            else:
                fields["happened"] = _now()

    def _again(self) -> None:
        with self._adding:
            self._write()

    def _write(self) -> None:
        try:
            while self._waiting:
                event, fields = self._waiting[0]
                self._log.note(event, **fields)
                self._waiting.popleft()
        except (FlaremeshError, OSError) as error:
            if "happened" not in fields:
                _log.error("the audit log waits until it can be written, with %r first: %s", event, error)
                fields["happened"] = _now()
            again = threading.Timer(_AGAIN_SECONDS, self._again)
            again.daemon = True
            again.start()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _end(file: IO[bytes]) -> tuple[bytes, bytes, bool]:
    """The last line of a log, if there is one; what was begun after it; whether that lacks its line feed."""
    size = file.seek(0, os.SEEK_END)
    reach = _BLOCK
    while True:
        start = max(0, size - reach)
        file.seek(start)
        block = file.read()
        lines = block.split(b"\n")
        for index in range(len(lines) - 1, 0 if start else -1, -1):  # the first may be a part of one
            with suppress(ValueError):
                _fields(lines[index])
                rest = b"\n".join(lines[index + 1 :]).removesuffix(b"\n")
                return lines[index], rest, not block.endswith(b"\n")
        if not start:
            return b"", block.removesuffix(b"\n"), bool(block) and not block.endswith(b"\n")
        reach *= 4


@dataclass(frozen=True)
class Verified:
    """A log in which nothing is wrong.

    Attributes:
        lines: how many it has.
        head: SHA-256 of the last line, in hexadecimal.
        torn: numbers of lines that were torn by the end of a process, as the line after each says.
    """

    lines: int
    head: str
    torn: tuple[int, ...]


def entries(workspace: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log as they are, unverified; torn ones are left out."""
    for line in _lines(workspace):
        with suppress(ValueError):
            yield _fields(line)


def unreadable(workspace: Path) -> int:
    """How many lines `entries` leaves out."""
    return sum(1 for _ in _lines(workspace)) - sum(1 for _ in entries(workspace))


def verify(workspace: Path, head: str | None = None) -> Verified:
    """Check every line of a site's log against the one before and against the site's certificates.

    Lines cut off at the end are missed because of the head beside the log. Whoever changes that too is found
    by a head that is kept elsewhere.

    Args:
        workspace: holds the log, and the site's certificate and the mesh's root in ``startup``.
        head: SHA-256 of a line that must be in the log: the head that an earlier call returned.

    Raises:
        AuditError: a line is changed, missing, at another place or torn; the message names the first.
    """
    certificates = _Certificates(workspace)
    known = _head(workspace / GATE_FOLDER)
    wanted = {known.sha256, head or known.sha256}
    previous, sequence, torn = _FIRST, 0, list[int]()
    rest: list[bytes] = []
    number = 0
    for number, line in enumerate(_lines(workspace), 1):
        try:
            fields = _fields(line)
        except ValueError:
            rest.append(line)
            continue
        if rest:
            first = number - len(rest)
            if fields["event"] != TORN or fields.get("sha256") != _sha256(b"\n".join(rest)):
                raise _wrong(first, "it is changed: it is no line of this log")
            torn += range(first, number)
            rest = []
        if fields["sequence"] != sequence + 1:
            there = f"it is number {fields['sequence']}, where number {sequence + 1} should be"
            raise _wrong(number, f"{there}: lines are missing, or at another place")
        if fields["previous"] != previous:
            raise _wrong(number, "it does not follow from the line before it, which is changed or missing")
        try:
            certificates.check(line, fields["certificate"])
        except SignatureError as error:
            raise _wrong(number, f"it is changed: {error}") from None
        sequence, previous = sequence + 1, _sha256(line)
        wanted.discard(previous)
    if rest:
        raise _wrong(number - len(rest) + 1, "it is changed, cut off, or torn by the end of a process")
    if sequence < known.number or wanted:
        missing = "the line whose SHA-256 was kept is missing: lines are cut off at the end, or written anew"
        raise _wrong(sequence + 1, missing)
    return Verified(sequence, previous, tuple(torn))


class _Certificates:
    """The site's certificates, each checked once: of the mesh's root, and in the name of this site."""

    def __init__(self, workspace: Path):
        files = startup_files(workspace / "startup")
        try:
            self._root = x509.load_pem_x509_certificate(files.root.read_bytes())
            self._subject = _name(x509.load_pem_x509_certificate(files.certificate.read_bytes()))
        except (FileNotFoundError, ValueError) as error:
            raise AuditError(f"the site's certificate and the root are needed in startup: {error}") from None
        self._folder = workspace / GATE_FOLDER / _CERTIFICATES
        self._checked: dict[str, x509.Certificate] = {}

    def check(self, line: bytes, serial: str) -> None:
        """Raise SignatureError for a line that the holder of the certificate did not sign."""
        body, _, rest = line.decode().rpartition(_SIGNATURE)
        written = rest.removesuffix('"}')
        try:
            signature = base64.b64decode(written, validate=True)
        except ValueError:
            signature = b""
        if base64.b64encode(signature).decode() != written:  # base64 has several ways to write some bytes
            raise SignatureError("its signature is none")
        verify_signature(f"{body}}}".encode(), signature, self._of(serial))

    def _of(self, serial: str) -> x509.Certificate:
        if serial not in self._checked:
            try:
                pem = (self._folder / f"{int(serial)}.crt").read_bytes()
                certificate = x509.load_pem_x509_certificate(pem)
                certificate.verify_directly_issued_by(self._root)
            except (OSError, ValueError, InvalidSignature):
                raise SignatureError("there is no certificate of the mesh with its serial number") from None
            if certificate.serial_number != int(serial) or _name(certificate) != self._subject:
                raise SignatureError("its certificate is not this site's")
            self._checked[serial] = certificate
        return self._checked[serial]


def _name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _wrong(number: int, problem: str) -> AuditError:
    return AuditError(f"line {number} of {LOG}: {problem}.")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Head(NamedTuple):
    number: int
    sha256: str


def _head(folder: Path) -> _Head:
    """The line that was written last; number 0 where none was.

    Raises:
        AuditError: what stands beside the log does not say it.
    """
    try:
        number, sha256 = (folder / HEAD).read_text().split()
        return _Head(int(number), sha256)
    except FileNotFoundError:
        return _Head(0, _FIRST)
    except ValueError:
        raise AuditError(f"{folder / HEAD} is damaged: lines may be missing at the end of {LOG}.") from None


def _lines(workspace: Path) -> Iterator[bytes]:
    try:
        with (workspace / GATE_FOLDER / LOG).open("rb") as file:
            for line in file:
                # one that is torn is none, even if all of it but the line feed is there
                yield line[:-1] if line.endswith(b"\n") else line + b"\0"
    except FileNotFoundError:
        raise AuditError(f"there is no audit log in {workspace}: no site has started there.") from None


def _fields(line: bytes) -> dict[str, Any]:
    """A line's fields.

    Raises:
        ValueError: it is no line of a log.
    """
    try:
        fields = json.loads(line)
    except RecursionError:
        raise ValueError from None
    match fields:
        case {"sequence": int(), "previous": str(), "certificate": str(), "event": str(), "signature": str()}:
            return dict(fields)
    raise ValueError
