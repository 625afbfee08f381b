"""An admin's session with the server of a mesh."""

import contextlib
import json
import logging
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from nvflare.apis.job_def import JobMetaKey, RunStatus
from nvflare.fuel.common.excepts import ConfigError
from nvflare.fuel.flare_api.api_spec import (
    AuthorizationError,
    InvalidJobDefinition,
)
from nvflare.fuel.flare_api.flare_api import Session
from nvflare.fuel.hci.client import api as admin_api
from nvflare.fuel.hci.client.file_transfer import FileTransferModule

from flaremesh.deploy import proxies
from flaremesh.deploy.target import Address, DeployError
from flaremesh.p2p.agents.kit import PARTS
from flaremesh.p2p.agents.server import FIRST_FAILURE
from flaremesh.p2p.participant import StartError, identity
from flaremesh.p2p.progress import RUN_PROGRESS, RunProgress
from flaremesh.p2p.tasks import PROGRESS_COMMAND
from flaremesh.topology.schema import Topology

_log = logging.getLogger(__name__)

# NVFlare prints what goes wrong on the way, tracebacks included, and then tells it as the answer. It is
# silenced here: to redirect the process's streams meanwhile would swallow what others print.
admin_api.traceback = SimpleNamespace(print_exc=lambda: _log.debug("in NVFlare's client", exc_info=True))
logging.getLogger("nvflare").addHandler(logging.NullHandler())

T = TypeVar("T")

_CONNECT_SECONDS = 10.0
_POLL_SECONDS = 0.2
_SUBMITTERS = ("project_admin", "lead")
_UNFINISHED = {RunStatus.SUBMITTED, RunStatus.APPROVED, RunStatus.DISPATCHED, RunStatus.RUNNING}


class ServerLost(DeployError):
    """The server does not answer."""


@dataclass(frozen=True)
class Job:
    """NVFlare's view of a run.

    Attributes:
        name: of the run.
        status: e.g. RUNNING or FINISHED:COMPLETED.
        details: what NVFlare noted when it deployed and scheduled the job.
        first_failure: the site whose process failed first, None where none did or the job was aborted before.
    """

    name: str
    status: str
    details: tuple[str, ...]
    first_failure: str | None

    @property
    def ended(self) -> bool:
        """Its status is final."""
        return self.status not in _UNFINISHED


class AdminSession:
    """What flaremesh asks of a server; see ``connect``.

    All methods raise ServerLost when no answer comes.
    """

    def __init__(self, session: Session):
        self._session = session

    def sites(self) -> set[str]:
        """Names of the sites that are registered."""
        return {client.name for client in self._ask(self._session.get_system_info).client_info}

    def unfinished(self) -> dict[str, Job]:
        """The jobs that wait or run, by run id."""
        metas = self._ask(lambda: self._session.list_jobs(detailed=True))
        jobs = {meta[JobMetaKey.JOB_ID.value]: _job(meta) for meta in metas}
        return {run_id: job for run_id, job in jobs.items() if not job.ended}

    def submit(self, folder: Path) -> str:
        """Submit a job; returns the run id."""
        # NVFlare would take a backslash in the folder's path for a slash
        with tempfile.TemporaryDirectory() as scratch:
            job = shutil.copytree(folder, Path(scratch) / "job")
            return self._ask(lambda: str(self._session.submit_job(str(job))))

    def job(self, run_id: str) -> Job:
        """NVFlare's view of a run."""
        return _job(self._ask(lambda: self._session.get_job_meta(run_id)))

    def progress(self, run_id: str) -> RunProgress | None:
        """What the run's controller tells of it, None while no controller answers.

        Raises:
            RecordError: it tells what cannot be read.
        """
        try:
            told = self._ask(lambda: dict(self._session.do_app_command(run_id, PROGRESS_COMMAND, {})))
        except DeployError:
            return None
        return RUN_PROGRESS.of(told, f"what the server tells of the run {run_id}") if told else None

    def abort(self, run_id: str, timeout: float) -> bool:
        """Abort a run; says whether it ended within ``timeout`` seconds."""
        self._ask(lambda: self._session.abort_job(run_id))
        return self.wait(run_id, timeout)

    def wait(self, run_id: str, timeout: float) -> bool:
        """Wait for a run's end; says whether it came within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not self.job(run_id).ended:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def download(self, run_id: str, folder: Path) -> Path:
        """Fetch into ``folder`` what the server kept of an ended run."""
        # NVFlare would put it into the admin's kit, and a kit is never written to
        for module in self._session.api.cmd_modules:
            if isinstance(module, FileTransferModule):
                module.download_dir = str(folder)
        return self._ask(lambda: Path(self._session.download_job_result(run_id)))

    def _ask(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except AuthorizationError as error:
            raise DeployError(f"the server refuses: {error}") from error
        except InvalidJobDefinition as error:
            raise DeployError(f"the server does not take the job: {error}") from error
        except Exception as error:
            raise ServerLost(f"the server does not answer: {error}") from error


@contextlib.contextmanager
def connect(topology: Topology, mesh: Path, server: Address | None = None) -> Iterator[AdminSession]:
    """Log in with the kit of the first admin who may submit runs.

    NVFlare challenges the server before the connection stands, and again 1 s later: that is most of the time.

    Args:
        topology: the mesh.
        mesh: its folder.
        server: where this machine reaches the server; None: where the topology says.

    Raises:
        ServerLost: the server cannot be reached.
        DeployError: there is no such admin, or no kit.
    """
    admin = next((admin.email for admin in topology.admins if admin.role in _SUBMITTERS), None)
    if admin is None:
        raise DeployError(f"no admin of {topology.name} may submit runs; give one the role lead")
    kit = mesh / "kits" / admin
    if not kit.is_dir():
        raise DeployError(f"there is no kit of {admin} in {kit.parent}: run `flaremesh provision` first")
    server = server or (topology.server.host, topology.server.port)
    proxies.spare(server[0])
    with tempfile.TemporaryDirectory() as scratch:
        session = _session(admin, kit, Path(scratch) / admin, server)
        session.api._print_hci = _log.debug
        try:
            _log_in(session, server)
            yield AdminSession(session)
        finally:
            session.close()  # its threads would keep this process alive


def _log_in(session: Session, server: Address) -> None:
    try:
        session.try_connect(_CONNECT_SECONDS)
    except ConnectionError as error:
        raise ServerLost(_why_no_answer(server)) from error
    except Exception as error:  # of many classes
        raise ServerLost(f"{server[0]}:{server[1]} lets nobody log in: {error}") from error


def _why_no_answer(server: Address) -> str:
    host, port = server
    try:
        socket.create_connection(server, timeout=1.0).close()
    except OSError:
        return f"no server answers at {host}:{port}; is the mesh up (`flaremesh up`)?{proxies.remark(host)}"
    return (
        f"no server of this mesh answers at {host}:{port}, where somebody listens: another mesh, or one with "
        f"kits of another provisioning.{proxies.remark(host)}"
    )


def _session(admin: str, kit: Path, copy: Path, server: Address) -> Session:
    """A session with what of an admin's kit it needs, which it may write to."""
    try:
        # or a damaged kit would be taken for a server that is away
        identity(kit)
        startup = kit / "startup"
        pair = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        pair.load_cert_chain(startup / "client.crt", startup / "client.key", password="")  # which asks nobody
        for part in PARTS:
            shutil.copytree(kit / part, copy / part)
        (copy / "transfer").mkdir()
        _direct(copy / "startup" / "fed_admin.json", server)
        return Session(admin, str(copy))
    except StartError as error:
        raise DeployError(f"{admin}: {error}") from None
    except (OSError, ValueError, TypeError, LookupError, ConfigError) as error:
        raise DeployError(
            f"the kit of {admin} in {kit} is damaged: {error}. `flaremesh provision` makes it anew."
        ) from error


def _direct(config: Path, server: Address) -> None:
    """Make an admin's kit dial the server where this machine reaches it."""
    document = json.loads(config.read_text())
    document["admin"]["host"], document["admin"]["port"] = server
    config.write_text(json.dumps(document))


def _job(meta: dict[str, Any]) -> Job:
    details = [
        *(meta.get(JobMetaKey.JOB_DEPLOY_DETAIL.value) or ()),
        *(meta.get(JobMetaKey.SCHEDULE_HISTORY.value) or ()),
    ]
    return Job(
        name=meta.get(JobMetaKey.JOB_NAME.value, ""),
        status=meta[JobMetaKey.STATUS.value],
        details=tuple(map(str, details)),
        first_failure=meta.get(FIRST_FAILURE),
    )
