"""The door itself: who signed a job, for which run, with which code, and does the kit allow it?"""

import logging
import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from typing_extensions import override

from flaremesh.errors import FlaremeshError
from flaremesh.p2p import charter
from flaremesh.p2p.charter import Charter
from flaremesh.p2p.gate import app, house, order
from flaremesh.p2p.gate.admitted import Admitted
from flaremesh.p2p.gate.approval import WAITS
from flaremesh.p2p.gate.archive import unpack
from flaremesh.p2p.gate.audit import AuditLog
from flaremesh.p2p.gate.code import JobCode
from flaremesh.p2p.gate.order import Order
from flaremesh.p2p.gate.request import Refused, RunRequest, noted
from flaremesh.p2p.nvflare.door import Door
from flaremesh.p2p.nvflare.signers import Signer, signer_of
from flaremesh.p2p.nvflare.startup import startup_files
from flaremesh.signatures import SignatureError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Visit:
    """A job that was let in and has not begun."""

    workspace: Path
    order: Order
    request: RunRequest
    approved_by: str | None


class SiteDoor(Door):
    """Lets in what the site's kit and its own policy allow; nothing of a job is loaded before it has decided.

    Every decision is in the audit log before it holds. Other sites may still refuse a run that is let in
    here, and its submitter may send it again: so a run counts as let in once it begins.
    """

    def __init__(self) -> None:
        super().__init__()
        self._visits: dict[str, _Visit] = {}
        self._deciding = threading.Lock()

    @override
    def admit(self, workspace: Path, job: str, app: bytes) -> Signer | str:
        known: dict[str, Any] = {"job": job}
        try:
            signer, asked, request = _looked_at(workspace, job, app)
            known |= noted(request)
            approved_by = house.check(workspace, request)
            Admitted(workspace).check(asked, datetime.now(UTC))
        except Refused as error:
            return self._refused(workspace, known, str(error))
        except Exception:  # noqa: BLE001  (whatever an app does to the checks, it stays out)
            _log.exception("the job %s is refused, because it could not be looked at", job)
            return self._refused(workspace, known, "the site could not look at the job; its log says why")
        with self._deciding:
            for earlier in [other for other, visit in self._visits.items() if visit.order.run == asked.run]:
                if self.take(earlier):
                    del self._visits[earlier]
                    shutil.rmtree(workspace / earlier)
            self._visits[job] = _Visit(workspace, asked, request, approved_by)
        return signer

    @override
    def begin(self, job: str) -> str | None:
        with self._deciding:
            visit = self._visits.pop(job)
        known = noted(visit.request)
        try:
            with self._deciding:
                Admitted(visit.workspace).add(visit.order, datetime.now(UTC))
            AuditLog(visit.workspace).note("let in", **known, approved_by=visit.approved_by)
        except Refused as error:
            return self._refused(visit.workspace, known, str(error))
        except (FlaremeshError, OSError) as error:
            _log.error("the job %s is refused, for the audit log cannot be written: %s", job, error)
            return "the audit log of this site cannot be written, so it runs nothing; its log says why"
        _log.info("the job %s of %s begins", job, visit.request.submitter)
        return None

    def _refused(self, workspace: Path, known: Mapping[str, Any], reason: str) -> str:
        _log.warning("the job %s is refused: %s", known["job"], reason)
        if not reason.startswith(WAITS):  # that is noted when it asks first, and it asks every few seconds
            try:
                AuditLog(workspace).note("refused", **known, reason=reason)
            except (FlaremeshError, OSError) as error:
                _log.error("the audit log misses that: %s", error)
        return reason


def _looked_at(workspace: Path, job: str, archive: bytes) -> tuple[Signer, Order, RunRequest]:
    startup = workspace / "startup"
    mine = _charter(startup)
    with tempfile.TemporaryDirectory(prefix="flaremesh-") as scratch:
        folder = Path(scratch)
        unpack(archive, folder)
        signer = _signer(folder, startup_files(startup).root, mine)
        asked, files = order.read(folder), order.digests(folder)
        order.check_files(asked, files)
        order.check_time(asked, datetime.now(UTC))
        order.check_charter(asked, mine)
        code = JobCode(mine.code, files, workspace)
        request = _request(job, signer, asked, code, app.check(folder, files, code), mine)
    return signer, asked, request


def _charter(startup: Path) -> Charter:
    try:
        return charter.read(startup)
    except FileNotFoundError:
        raise Refused(
            "the kit of this site has no charter, which says what it may do: provision again with this "
            "version of flaremesh, and hand out the kits"
        ) from None
    except (FlaremeshError, ValueError):
        raise Refused(
            "the charter in the kit of this site is damaged, or not signed by the mesh's root: install the "
            "kit again"
        ) from None


def _signer(folder: Path, root: Path, mine: Charter) -> Signer:
    try:
        signer = signer_of(folder, root)
    except SignatureError as error:
        raise Refused(f"an admin of the mesh must sign a job, as submitting it does: {error}") from None
    if str(signer.serial) in mine.revoked:
        raise Refused("the certificate of who signed the job is revoked")
    return signer


def _request(
    job: str, signer: Signer, asked: Order, code: JobCode, named: app.Named, mine: Charter
) -> RunRequest:
    return RunRequest(
        run=asked.run,
        job=job,
        mesh=mine.mesh,
        submitter=signer.email,
        org=signer.org,
        role=signer.role,
        algorithm=named.algorithm,
        problem=named.problem,
        code=code.used,
        sites=asked.sites,
        peers=asked.peers(mine.participant),
        links=asked.links,
        at=asked.at,
    )
