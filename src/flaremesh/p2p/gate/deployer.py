"""The door itself: who signed a job, for which run, with which code, and does the kit allow it?"""

import logging
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from typing_extensions import override

from flaremesh.errors import FlaremeshError
from flaremesh.p2p import charter
from flaremesh.p2p.charter import Charter
from flaremesh.p2p.gate import app, order
from flaremesh.p2p.gate.admitted import Admitted
from flaremesh.p2p.gate.archive import unpack
from flaremesh.p2p.gate.code import JobCode
from flaremesh.p2p.gate.order import Order
from flaremesh.p2p.gate.request import Refused, RunRequest
from flaremesh.p2p.nvflare.door import Door
from flaremesh.p2p.nvflare.signers import Signer, signer_of
from flaremesh.p2p.nvflare.startup import startup_files
from flaremesh.signatures import SignatureError

_log = logging.getLogger(__name__)


class SiteDoor(Door):
    """Lets in what the site's kit allows; nothing of a job is loaded before it has decided."""

    @override
    def admit(self, workspace: Path, job: str, app: bytes) -> Signer | str:
        try:
            signer = _admitted(workspace, job, app)
        except Refused as error:
            _log.warning("the job %s is refused: %s", job, error)
            return str(error)
        except Exception:  # noqa: BLE001  (whatever an app does to the checks, it stays out)
            _log.exception("the job %s is refused, because it could not be looked at", job)
            return "the site could not look at the job; its log says why"
        _log.info("the job %s of %s is let in", job, signer.email)
        return signer


def _admitted(workspace: Path, job: str, archive: bytes) -> Signer:
    startup = workspace / "startup"
    mine, now = _charter(startup), datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="flaremesh-") as scratch:
        folder = Path(scratch)
        unpack(archive, folder)
        signer = _signer(folder, startup_files(startup).root, mine)
        asked, files = order.read(folder), order.digests(folder)
        order.check_files(asked, files)
        order.check_time(asked, now)
        order.check_charter(asked, mine)
        code = JobCode(mine.code, files, workspace)
        request = _request(job, signer, asked, code, app.check(folder, files, code), mine)
    _log.info("asked for: %s", request)
    Admitted(workspace).add(asked, now)
    return signer


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
