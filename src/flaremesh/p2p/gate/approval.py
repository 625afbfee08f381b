"""Runs that wait for a person at the site, and what that person said.

A run's request lies in a file of its own, in a folder for each state, and no file is ever changed: so the
site's process and its commands need no lock.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from flaremesh import atomic
from flaremesh.errors import FlaremeshError
from flaremesh.p2p.gate.audit import GATE_FOLDER, AuditLog
from flaremesh.p2p.gate.request import REQUEST, RunRequest
from flaremesh.record import RecordError, Schema

WAITS: Final = "waits for approval"
"""How the reason of a run begins that nobody at the site has approved yet."""

_MOST_WAITING = 100
_KEPT = timedelta(days=7)

_RUN = re.compile(r"[A-Za-z0-9][\w-]{0,63}", re.ASCII)


class ApprovalError(FlaremeshError):
    """There is nothing to approve or to deny."""


@dataclass(frozen=True)
class Pending:
    """A run that waits, or that a person has approved or denied.

    Attributes:
        request: what it asks.
        asked: when it asked first.
        by: who approved or denied it; empty while it waits.
    """

    request: RunRequest
    asked: datetime
    by: str = ""

    def is_of(self, request: RunRequest) -> bool:
        """Whether it asks the same: all but what differs each time that a run is submitted again."""
        return replace(self.request, job=request.job, at=request.at) == request


PENDING: Final = Schema[Pending](Pending, "a run that waits for approval")


class Approvals:
    """The runs of one site that need approval.

    Args:
        workspace: the site's.
    """

    def __init__(self, workspace: Path):
        self._workspace = workspace
        folders = (workspace / GATE_FOLDER / state for state in ("waiting", "approved", "denied"))
        self._waiting, self._approved, self._denied = folders

    def ask(self, request: RunRequest) -> str:
        """Have a run wait for a person, if it does not wait already.

        Returns:
            Why it is refused for now.
        """
        if not _RUN.fullmatch(request.run):
            return "the run's id is none that can be approved: letters, digits, _ and -, 64 at most"
        self._forget()
        if _read(self._denied / _file(request.run)):
            return "a person at this site denied it"
        earlier = self._read(request.run)
        if earlier is None:
            if len(list(self._waiting.glob("*.json"))) >= _MOST_WAITING:
                return f"{_MOST_WAITING} runs wait for approval already"
            AuditLog(self._workspace).note("waits", request=REQUEST.data(request))
            self._write(self._waiting, Pending(request, datetime.now(UTC)))
        elif not earlier.is_of(request):
            return "another run of the same id waits for approval"
        return f"{WAITS}: a person at this site must call `flaremesh approve {request.run}`"

    def granted(self, request: RunRequest) -> str | None:
        """Who approved a run, and exactly what it asks now; None if nobody did.

        That a run begins once is held by its order.
        """
        approved = _read(self._approved / _file(request.run)) if _RUN.fullmatch(request.run) else None
        return approved.by if approved and approved.is_of(request) else None

    def waiting(self) -> list[Pending]:
        """The runs that wait, the first that asked first."""
        self._forget()
        found = (_read(file) for file in self._waiting.glob("*.json"))
        return sorted((pending for pending in found if pending), key=lambda pending: pending.asked)

    def approve(self, run: str, by: str) -> Pending:
        """Approve a run that waits, in the name of ``by``, and note it in the audit log.

        Raises:
            ApprovalError: none of that id waits.
            AuditError, OSError, SignatureError: the log cannot be written; nothing is approved.
        """
        return self._decide(run, by, self._approved)

    def deny(self, run: str, by: str) -> Pending:
        """Deny a run that waits, or that is approved and has not begun, in the name of ``by``.

        Raises:
            ApprovalError: there is none of that id.
            AuditError, OSError, SignatureError: the log cannot be written; nothing is denied.
        """
        return self._decide(run, by, self._denied)

    def _decide(self, run: str, by: str, folder: Path) -> Pending:
        pending = self._read(run) if _RUN.fullmatch(run) else None
        if pending is None or (folder / _file(run)).exists():
            waiting = ", ".join(pending.request.run for pending in self.waiting()) or "none"
            raise ApprovalError(f"no run {run!r} waits for approval here; waiting: {waiting}.")
        decided = replace(pending, by=by)
        AuditLog(self._workspace).note(folder.name, run=run, by=by)  # first: no decision without its line
        self._write(folder, decided)
        for other in {self._waiting, self._approved} - {folder}:
            (other / _file(run)).unlink(missing_ok=True)
        return decided

    def _read(self, run: str) -> Pending | None:
        return _read(self._waiting / _file(run)) or _read(self._approved / _file(run))

    def _write(self, folder: Path, pending: Pending) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic.write(folder / _file(pending.request.run), PENDING.json(pending, indent=2), durable=True)

    def _forget(self) -> None:
        """Remove what is older than any order that a site still takes."""
        limit = (datetime.now(UTC) - _KEPT).timestamp()
        for file in self._files():
            if file.stat().st_mtime < limit:
                file.unlink(missing_ok=True)

    def _files(self) -> Iterator[Path]:
        for folder in (self._waiting, self._approved, self._denied):
            yield from folder.glob("*.json")


def _file(run: str) -> str:
    return f"{run}.json"


def _read(file: Path) -> Pending | None:
    try:
        return PENDING.read(file.read_bytes(), file)
    except (FileNotFoundError, RecordError):
        return None  # a damaged file counts as none: the run asks anew
