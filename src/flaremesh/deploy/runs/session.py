"""An admin's session with the server of a mesh."""

import contextlib
import logging
import shutil
import socket
import ssl
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from flaremesh.deploy import proxies
from flaremesh.deploy.targets.base import Address, DeployError
from flaremesh.hosts import at
from flaremesh.p2p.agents.kit import PARTS
from flaremesh.p2p.nvflare.admin import Admin, NoAnswer, Refused, Unknown
from flaremesh.p2p.nvflare.jobs import Job
from flaremesh.p2p.nvflare.startup import startup_files
from flaremesh.p2p.participant import StartError, identity
from flaremesh.p2p.progress import RUN_PROGRESS, RunProgress
from flaremesh.p2p.tasks import PROGRESS_COMMAND
from flaremesh.record import RecordError
from flaremesh.topology.schema import Topology
from flaremesh.waiting import wait_while

_log = logging.getLogger(__name__)

T = TypeVar("T")

_CONNECT_SECONDS = 10.0
_POLL_SECONDS = 0.2
_MOST_RUNS = 1000
_SERVER_MEBIBYTES = 64  # of logs and code of a run, besides one of each site's history
_SUBMITTERS = ("project_admin", "lead")


class ServerLost(DeployError):
    """The server does not answer."""


class UnknownRun(DeployError):
    """The server has no such run."""

    exit_code = 2


class AdminSession:
    """An admin's session, which ``connect`` makes.

    All methods raise ServerLost when no answer comes, UnknownRun where the server has no such job, and
    DeployError when it refuses.

    Args:
        admin: NVFlare's session.
        sites: of the mesh; what the server tells of others is ignored.
    """

    def __init__(self, admin: Admin, sites: Collection[str]):
        self._admin = admin
        self._sites = frozenset(sites)
        self._unreadable: set[str] = set()

    def sites(self) -> set[str]:
        """Names of the sites that are registered."""
        return self._ask(self._admin.sites)

    def unfinished(self) -> dict[str, Job]:
        """The jobs that wait or run, by run id; so many of them as a mesh may have."""
        jobs = self._ask(self._admin.jobs).items()
        return dict(islice(((run_id, job) for run_id, job in jobs if not job.ended), _MOST_RUNS))

    def jobs(self) -> dict[str, Job]:
        """The latest jobs of the mesh, the oldest of them first, by their ids."""
        jobs = sorted(self._ask(self._admin.jobs).items(), key=lambda told: told[1].submitted)
        return dict(jobs[-_MOST_RUNS:])

    def submit(self, folder: Path) -> str:
        """Submit a job; returns the run id."""
        return self._ask(lambda: self._admin.submit(folder))

    def job(self, run_id: str) -> Job:
        """NVFlare's view of a run."""
        return self._ask(lambda: self._admin.job(run_id))

    def progress(self, run_id: str) -> RunProgress | None:
        """The progress that the run's controller reports, None while none answers in words to be read."""
        try:
            told = self._ask(lambda: self._admin.ask_job(run_id, PROGRESS_COMMAND))
            progress = RUN_PROGRESS.of(told, f"what the server tells of the run {run_id}") if told else None
        except DeployError:
            return None
        except RecordError as error:
            if run_id not in self._unreadable:
                self._unreadable.add(run_id)
                _log.warning("%s", error)
            return None
        if progress is None:
            return None
        known = {site: told for site, told in progress.sites.items() if site in self._sites}
        return replace(progress, sites=known)

    def abort(self, run_id: str, timeout: float) -> bool:
        """Abort a run; says whether it ended within ``timeout`` seconds."""
        self._ask(lambda: self._admin.abort(run_id))
        return self.wait(run_id, timeout)

    def clone(self, run_id: str) -> str:
        """Let a run that has ended go on in another job; returns that job's id."""
        return self._ask(lambda: self._admin.clone(run_id))

    def wait(self, run_id: str, timeout: float) -> bool:
        """Wait for a run's end; says whether it came within ``timeout`` seconds."""
        return not wait_while(lambda: not self.job(run_id).ended, timeout, _POLL_SECONDS)

    def download(self, run_id: str, name: str) -> bytes | None:
        """A file of the server's folder of an ended run, by its name there; None if it kept none."""
        most = (_SERVER_MEBIBYTES + len(self._sites)) << 20
        return self._ask(lambda: self._admin.download(run_id, name, most))

    def _ask(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except Refused as error:
            raise DeployError(str(error)) from error
        except Unknown as error:
            raise UnknownRun(
                "the server has no such run; `flaremesh runs` shows those that it has"
            ) from error
        except NoAnswer as error:
            raise ServerLost(f"the server does not answer: {error}") from error


@contextlib.contextmanager
def connect(topology: Topology, mesh: Path, server: Address | None = None) -> Iterator[AdminSession]:
    """Log in with the kit of the first admin who may submit runs.

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
        try:
            _log_in(session, server)
            yield AdminSession(session, [site.name for site in topology.sites])
        finally:
            session.close()


def _log_in(session: Admin, server: Address) -> None:
    try:
        session.log_in(_CONNECT_SECONDS)
    except NoAnswer as error:
        raise ServerLost(_why_no_answer(server)) from error
    except Refused as error:
        raise ServerLost(f"{at(*server)} lets nobody log in: {error}") from error


def _why_no_answer(server: Address) -> str:
    host, place = server[0], at(*server)
    try:
        socket.create_connection(server, timeout=1.0).close()
    except OSError:
        return f"no server answers at {place}; is the mesh up (`flaremesh up`)?{proxies.remark(host)}"
    return (
        f"no server of this mesh answers at {place}, where somebody listens: another mesh, or one with "
        f"kits of another provisioning.{proxies.remark(host)}"
    )


def _session(admin: str, kit: Path, copy: Path, server: Address) -> Admin:
    """A session with a copy of the files that it needs of an admin's kit, since NVFlare may write to them."""
    try:
        # checked first: NVFlare would report a damaged kit as a server that does not answer
        identity(kit)
        files = startup_files(kit / "startup")
        pair = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # with a password, so that OpenSSL does not ask for one
        pair.load_cert_chain(files.certificate, files.key, password="")
        for part in PARTS:
            shutil.copytree(kit / part, copy / part, ignore=shutil.ignore_patterns(files.key.name))
        # on a machine with sites, the code of a run may read temporary files, and no kit
        (copy / "startup" / files.key.name).symlink_to(files.key.resolve())
        return Admin(admin, copy, *server)
    except StartError as error:
        raise DeployError(f"{admin}: {error}") from None
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise DeployError(
            f"the kit of {admin} in {kit} is damaged: {error}. `flaremesh provision` makes it anew."
        ) from error
