"""The door itself: who signed a job, for which run, with which code, and does the kit allow it?"""

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from typing_extensions import override

from flaremesh.certificates import Identity
from flaremesh.errors import FlaremeshError
from flaremesh.p2p import charter
from flaremesh.p2p.charter import Charter
from flaremesh.p2p.gate import app, consent, order, policy
from flaremesh.p2p.gate.approval import WAITS
from flaremesh.p2p.gate.archive import unpack
from flaremesh.p2p.gate.audit import GATE_FOLDER, AuditLog
from flaremesh.p2p.gate.begun import Begun
from flaremesh.p2p.gate.carried import carry
from flaremesh.p2p.gate.code import JobCode
from flaremesh.p2p.gate.ledger import Ledger
from flaremesh.p2p.gate.order import Order
from flaremesh.p2p.gate.request import REQUEST, Refused, RunRequest
from flaremesh.p2p.nvflare.door import MOST_WAITING, Door
from flaremesh.p2p.nvflare.signers import signer_of
from flaremesh.p2p.nvflare.startup import startup_files
from flaremesh.p2p.nvflare.submissions import Submissions
from flaremesh.p2p.store import ORDER
from flaremesh.signatures import SignatureError
from flaremesh.topology.links import LinkKind, kinds_of

_log = logging.getLogger(__name__)

T = TypeVar("T")

_SCRATCH = "app-"
_MOST_REFUSALS = 100
_SECONDS_PER_REFUSAL = 60


class _Refusals:
    """Notes refused jobs, of which a server can send any number: so many at once, then one a minute."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = float(_MOST_REFUSALS)
        self._last = time.monotonic()
        self._untold = 0

    def note(self, log: AuditLog, job: str, reason: str, asked: RunRequest | None) -> None:
        """Add a line, which also counts those that were left out before it."""
        with self._lock:
            now = time.monotonic()
            self._left = min(_MOST_REFUSALS, self._left + (now - self._last) / _SECONDS_PER_REFUSAL)
            self._last = now
            if self._left < 1:
                self._untold += 1
                return
            said = REQUEST.data(asked) if asked else None
            log.note("refused", job=job, reason=reason, request=said, not_noted_before=self._untold)
            self._left -= 1
            self._untold = 0


class SiteDoor(Door):
    """Lets in what the site's kit and its own admin allow; nothing of a job is loaded before.

    Another site may refuse a run that is let in here, and while it waits for a person there, its submitter
    sends it again and again. So the last job of a run takes the place of those before, and the run counts and
    is noted once it begins.
    """

    def __init__(self) -> None:
        super().__init__()
        self._visits: dict[str, RunRequest] = {}  # of jobs that were let in and have not begun
        self._refusals = _Refusals()

    @override
    def admit(self, workspace: Path, job: str, app: bytes) -> Identity | str:
        return self._decided(workspace, job, lambda: self._admit(workspace, job, app))

    @override
    def begin(self, workspace: Path, job: str) -> str | None:
        return self._decided(workspace, job, lambda: self._begin(workspace, job))

    def _decided(self, workspace: Path, job: str, decide: Callable[[], T]) -> T | str:
        """What a decision returns, or why it refuses, which is also noted."""
        asked = None
        try:
            return decide()
        except Refused as error:
            reason, asked = str(error), error.request
        except Exception:  # noqa: BLE001  (whatever an app does to the checks, it stays out)
            _log.exception("the job %s cannot be looked at", job)
            reason = "the site could not look at the job; its log says why"
        _log.warning("the job %s is refused: %s", job, reason)
        if not reason.startswith(WAITS):  # noted when it asked first
            self.count_refusal()
            try:
                self._refusals.note(AuditLog(workspace), job, reason, asked)
            except (FlaremeshError, OSError):
                _log.exception("the audit log misses that")
        return reason

    def _begin(self, workspace: Path, job: str) -> None:
        request = self._visits.pop(job, None)
        if request is None:
            raise Refused("the job did not begin before it was sent again, or before too many others were")
        # the server may have let it wait for hours, in which a person may have changed their mind
        approved_by = self._allowed(workspace, request)
        source = Begun(workspace).continued(request, self.running_jobs())
        attempt = Begun(workspace).add(request, datetime.now(UTC), self.running_jobs())
        if attempt == 1:
            Ledger(workspace).book(request, policy.read(workspace), datetime.now(UTC))
        if source:
            carry(workspace, source, request.order)
        log = AuditLog(workspace)
        if attempt > 1:
            log.note("attempt", job=job, run=request.run, attempt=attempt)
        else:
            log.note("let in", job=job, request=REQUEST.data(request), approved_by=approved_by)

    def _admit(self, workspace: Path, job: str, archive: bytes) -> Identity:
        startup = workspace / "startup"
        mine = _charter(startup)
        gate = workspace / GATE_FOLDER
        gate.mkdir(mode=0o700, exist_ok=True)
        for left in gate.glob(f"{_SCRATCH}*"):  # by a process that was killed meanwhile: one app at a time
            shutil.rmtree(left, ignore_errors=True)
        # not among all temporary files, which the code of another run could change while they are checked
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=gate) as scratch:
            folder = Path(scratch)
            unpack(archive, folder)
            signer = _signer(folder, startup_files(startup).root, mine)
            asked, files = order.read(folder), order.digests(folder)
            order.check_files(asked, files)
            order.check_charter(asked, mine)
            code = JobCode(mine.code, files, workspace)
            request = replace(
                _request(job, signer, asked, code, app.check(folder, files, code), mine),
                order=order.digest(folder),
            )
        self._allowed(workspace, request)
        Begun(workspace).continued(request, self.running_jobs())
        for earlier in [other for other, visit in list(self._visits.items()) if visit.run == asked.run]:
            if self.take(earlier) is not None:
                del self._visits[earlier]
                shutil.rmtree(workspace / earlier)
        self._visits[job] = request
        if len(self._visits) > MOST_WAITING:
            del self._visits[next(iter(self._visits))]
        return signer

    def _allowed(self, workspace: Path, request: RunRequest) -> str | None:
        """Who approved a run, as `consent.check`; what was allowed to it before holds for its attempts.

        Raises:
            Refused: it may not begin; the error also tells what was asked.
        """
        now = datetime.now(UTC)
        try:
            if Begun(workspace).attempt(request, now, self.running_jobs()) > 1:
                return None
            order.check_time(request.at, now)
            return consent.check(workspace, request)
        except Refused as error:
            error.request = request
            raise


class ServerDoor(Submissions):
    """Lets in at the server what an admin of the mesh has signed, as the sites do."""

    @override
    def refusal(self, workspace: Path, app: Path) -> str | None:
        startup = workspace / "startup"
        try:
            _signer(app, startup_files(startup).root, _charter(startup))
            if (app / ORDER).exists():  # its digest opens the run's store, so it must be this app's
                order.check_files(order.read(app), order.digests(app))
        except Refused as error:
            return str(error)
        return None


def _charter(startup: Path) -> Charter:
    try:
        return charter.read(startup)
    except FileNotFoundError:
        raise Refused(
            "the kit here has no charter, which says what may be done: provision again with this "
            "version of flaremesh, and hand out the kits"
        ) from None
    except (FlaremeshError, ValueError):
        raise Refused(
            "the charter in the kit here is damaged, or not signed by the mesh's root: install the kit again"
        ) from None


def _signer(folder: Path, root: Path, mine: Charter) -> Identity:
    try:
        return signer_of(folder, root, mine.revoked)
    except SignatureError as error:
        raise Refused(f"an admin of the mesh must sign a job, as submitting it does: {error}") from None


def _request(
    job: str, signer: Identity, asked: Order, code: JobCode, named: app.Named, mine: Charter
) -> RunRequest:
    return RunRequest(
        run=asked.run,
        job=job,
        mesh=mine.mesh,
        submitter=signer.name,
        org=signer.org,
        role=signer.role or "",
        algorithm=named.algorithm,
        problem=named.problem,
        code=code.used,
        sites=asked.sites,
        peers=asked.peers(mine.participant),
        links=asked.links,
        at=asked.at,
        on_loss=asked.on_loss,
        quorum=asked.quorum,
        continues=asked.continues,
        carriers=_carriers(asked, mine),
        privacy=asked.privacy,
    )


def _carriers(asked: Order, mine: Charter) -> tuple[LinkKind, ...]:
    peers = asked.peers(mine.participant)
    may = {kind for peer in peers if peer in mine.peers for kind in mine.peers[peer].carriers}
    return tuple(sorted(may & kinds_of(asked.links), key=lambda kind: kind.rank))
