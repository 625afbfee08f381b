"""An admin's session with the server.

This hides NVFlare's session, the client inside it and the files in an admin's kit. It replaces the client's
printing, since that client prints each error with its traceback before it returns it; redirecting the streams
of the process would silence others as well.
"""

import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nvflare.apis.job_def import JobMetaKey, RunStatus
from nvflare.fuel.common.excepts import ConfigError
from nvflare.fuel.flare_api.api_spec import AuthorizationError, InvalidJobDefinition, JobNotFound
from nvflare.fuel.flare_api.flare_api import Session
from nvflare.fuel.hci.client import api as admin_api

from flaremesh.p2p.nvflare import ipv6
from flaremesh.p2p.nvflare.downloads import Unreadable, refuse_pulls, workspace_file
from flaremesh.p2p.nvflare.ipv6_names import name_for
from flaremesh.p2p.nvflare.jobs import Job, id_of, is_id, job_of
from flaremesh.printable import printable
from flaremesh.waiting import wait_while

_log = logging.getLogger(__name__)

_EXPLAINED_SECONDS = 2.0
_PLAIN_PATH = re.compile(r"[\w./-]+", re.ASCII)


class NoAnswer(Exception):
    """The server does not answer."""


class Refused(Exception):
    """The server does not let the admin do this, or does not take the job; the message says which."""


class Unknown(Exception):
    """The server has no such job."""


class Admin:
    """A session of an admin.

    All methods but ``close`` may raise NoAnswer and Refused, and those that are asked about a job Unknown.

    Args:
        name: of the admin.
        kit: a copy of the admin's kit, which NVFlare may write to.
        host, port: where to dial the server, whatever the kit says.

    Raises:
        OSError, ValueError, TypeError, LookupError: the kit is damaged.
    """

    def __init__(self, name: str, kit: Path, host: str, port: int):
        _silence()
        ipv6.admit()
        (kit / "transfer").mkdir()
        config = kit / "startup" / "fed_admin.json"
        document = json.loads(config.read_text())
        document["admin"] |= {"host": name_for(host), "port": port}
        config.write_text(json.dumps(document))
        try:
            self._session = Session(name, str(kit))
        except ConfigError as error:
            raise ValueError(str(error)) from error
        self._session.api._print_hci = _log.debug
        refuse_pulls(self._session.api)

    def log_in(self, timeout: float) -> None:
        """Connect to the server.

        NVFlare challenges the server before the connection stands, and again 1 s later: that is most of the
        time.

        Args:
            timeout: seconds.
        """
        try:
            self._session.try_connect(timeout)
        except ConnectionError as error:
            raise NoAnswer(_said(error)) from error
        except Exception as error:  # of many classes
            raise Refused(_said(error)) from error

    def close(self) -> None:
        """Log out, and end the session's threads, which would keep this process alive."""
        self._session.close()

    def sites(self) -> set[str]:
        """Names of the sites that are registered."""
        with _answered():
            return {printable(client.name, 256) for client in self._session.get_system_info().client_info}

    def jobs(self) -> dict[str, Job]:
        """The admin's jobs, by run id; what is none is left out."""
        with _answered():
            told = list(self._session.list_jobs(detailed=True))
        jobs = {}
        for meta in told:
            try:
                jobs[id_of(meta)] = job_of(meta)
            except (LookupError, TypeError, AttributeError, ValueError):
                _log.warning("the server lists a job that is none")
        return jobs

    def job(self, run_id: str) -> Job:
        """One job; if it could not begin, with what its sites say, which the server writes a moment later."""
        told: list[Job] = []

        def unexplained() -> bool:
            with _answered():
                meta = self._session.get_job_meta(run_id)
                told.append(job_of(meta))
                failed = told[-1].status == RunStatus.FAILED_TO_RUN
                return failed and not meta.get(JobMetaKey.JOB_DEPLOY_DETAIL.value)

        wait_while(unexplained, _EXPLAINED_SECONDS, poll=0.1)
        return told[-1]

    def submit(self, folder: Path) -> str:
        """Submit the job in a folder; returns its id."""
        # NVFlare signs what lies there, so not among temporary files, where the code of a run on this machine
        # may write; but it does not understand each path: it would take a backslash for a slash
        place = folder.parent.resolve()
        beside = place if _PLAIN_PATH.fullmatch(str(place)) else None
        with tempfile.TemporaryDirectory(dir=beside, prefix=".signed-") as scratch:
            job = shutil.copytree(folder, Path(scratch) / "job")
            with _answered():
                run_id = self._session.submit_job(str(job))
            return _id(run_id)

    def clone(self, run_id: str) -> str:
        """Submit what a job has, with what was signed of it, once more; returns the id of the new job."""
        with _answered():
            cloned = self._session.clone_job(run_id)
        return _id(cloned)

    def ask_job(self, run_id: str, topic: str) -> dict[str, Any]:
        """What a running job answers to a command; see flaremesh.p2p.nvflare.server.answer_admin."""
        with _answered():
            return dict(self._session.do_app_command(run_id, topic, {}))

    def abort(self, run_id: str) -> None:
        """Ask the server to end a job; it ends some seconds later."""
        with _answered():
            self._session.abort_job(run_id)

    def download(self, run_id: str, name: str, most: int) -> bytes | None:
        """A file of what the server kept of a job that has ended; None if there is none of that name.

        Args:
            run_id: id of the job.
            name: of the file, in the job's run folder.
            most: so many bytes may it, and all that the server kept, have.
        """
        with _answered():
            return workspace_file(self._session.api, run_id, name, most)


def _id(told: object) -> str:
    """An id that the server tells, which becomes a folder's name here."""
    if not is_id(told):
        raise Refused(f"the server answers with an id that cannot be one: {printable(told, 80)}")
    return told


def _silence() -> None:
    admin_api.traceback = SimpleNamespace(print_exc=lambda: _log.debug("in NVFlare's client", exc_info=True))
    logging.getLogger("nvflare").addHandler(logging.NullHandler())


@contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except AuthorizationError as error:
        raise Refused(f"the server refuses: {_said(error)}") from error
    except JobNotFound as error:
        raise Unknown(_said(error)) from error
    except InvalidJobDefinition as error:
        raise Refused(f"the server does not take the job: {_said(error)}") from error
    except Unreadable as error:
        raise Refused(f"what the server keeps of the run cannot be read: {error}") from error
    except Exception as error:  # of many classes
        raise NoAnswer(_said(error)) from error


def _said(error: Exception) -> str:
    """What NVFlare says, which may be in the server's words."""
    return printable(error, 500)
