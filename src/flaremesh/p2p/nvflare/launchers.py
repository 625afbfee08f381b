"""Launchers of job processes that give these what they need and no more, and allow any character in paths.

NVFlare's own give a job their whole environment and the kit's private key, put the job's folder on Python's
path before the process starts, and split its command as a shell would, without quoting what they put there.
This hides these classes and the arguments that NVFlare prepares for them.
"""

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, JobConstants, WorkspaceConstants
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobProcessArgs
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.app_common.job_launcher.process_launcher import ProcessHandle, ProcessJobLauncher
from nvflare.app_common.job_launcher.server_process_launcher import ServerProcessJobLauncher
from nvflare.utils.job_launcher_utils import get_client_job_args, get_credential_env, get_server_job_args
from nvflare.utils.process_utils import ProcessAdapter, spawn_process
from typing_extensions import override

from flaremesh.issuing import new_key
from flaremesh.p2p.nvflare import run_credential
from flaremesh.p2p.store import make, store_of
from flaremesh.sandbox import landlock
from flaremesh.sandbox.environment import of_job, withheld_proxies

JOB_PROCESS: Final = "flaremesh.p2p.nvflare.job_process"
"""What runs first in the process of a job; it is not imported here, because it runs there alone."""

_UNCONFINED = (
    "this kernel does not confine processes (Landlock, Linux 5.13 or later, is missing or not permitted): "
    "the code of a job can read the kit's private key and whatever else this process can read. A site whose "
    "policy.yaml says `confinement: required` refuses runs then"
)


class _Launcher(ProcessJobLauncher):
    """What both launchers have in common."""

    def __init__(self) -> None:
        super().__init__()
        self._maker = ThreadPoolExecutor(1, "run-key")
        self._next_key: Future[rsa.RSAPrivateKey] | None = None

    @override
    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.SYSTEM_BOOTSTRAP:  # the participant's own process has it, and no job's
            self._next_key = self._maker.submit(new_key)
            # of runs whose end an earlier process did not see
            run_credential.withdraw_all(_workspace(fl_ctx))
            if not landlock.version():
                self.logger.warning(_UNCONFINED)
            if withheld := withheld_proxies(os.environ):
                self.logger.warning("jobs do not get %s, which hold passwords", ", ".join(withheld))

    @override
    def launch_job(self, job_meta: Mapping[str, Any], fl_ctx: FLContext) -> ProcessHandle:
        workspace = _workspace(fl_ctx)
        run = str(job_meta[JobConstants.JOB_ID])
        folder = workspace / run
        for left in (WorkspaceConstants.RESTART_FILE, WorkspaceConstants.SHUTDOWN_FILE):
            # by an earlier process of the participant, whose pod may have ended after this one began; a job
            # that finds one would have to remove it, and may not
            (workspace / left).unlink(missing_ok=True)
        try:
            run_credential.issue(workspace / "startup", folder, self._new_key())
        except FileNotFoundError as error:
            raise RuntimeError(
                f"the kit in {workspace} has no {Path(error.filename).name}: "
                "make it again with `flaremesh provision`, and install it"
            ) from None
        store = _store(Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_app_dir(run)), workspace)
        temporary = tempfile.mkdtemp(prefix="flaremesh-")

        def clean() -> None:
            run_credential.withdraw(folder)
            shutil.rmtree(temporary, ignore_errors=True)

        environment = of_job(os.environ, temporary)
        environment |= get_credential_env(fl_ctx.get_prop(FLContextKey.JOB_PROCESS_ARGS))
        python, _, *words = shlex.split(self.get_command(job_meta, fl_ctx))
        command = [python, "-m", JOB_PROCESS, str(workspace), run, str(store or ""), *words]
        try:
            return _Handle(spawn_process(command, environment), clean)
        except OSError:
            clean()
            raise

    def _new_key(self) -> rsa.RSAPrivateKey:
        """A new key, made ahead: it takes a tenth of a second, for which no run waits."""
        made = self._next_key or self._maker.submit(new_key)
        self._next_key = self._maker.submit(new_key)
        return made.result()


class _Handle(ProcessHandle):
    """NVFlare's handle of a process, which cleans up when that has ended."""

    def __init__(self, adapter: ProcessAdapter, clean: Callable[[], None]):
        super().__init__(process_adapter=adapter)
        self._clean = clean

    @override
    def wait(self) -> None:
        super().wait()
        self._clean()


class SiteJobLauncher(_Launcher, ClientProcessJobLauncher):
    """NVFlare's launcher at a site, with a confined process."""

    @override
    def get_command(self, job_meta: Mapping[str, Any], fl_ctx: FLContext) -> str:
        return _command(fl_ctx, get_client_job_args())


class ServerJobLauncher(_Launcher, ServerProcessJobLauncher):
    """NVFlare's launcher at the server, with a confined process."""

    @override
    def get_command(self, job_meta: Mapping[str, Any], fl_ctx: FLContext) -> str:
        return _command(fl_ctx, get_server_job_args())


def _workspace(fl_ctx: FLContext) -> Path:
    return Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir())


def _store(app: Path, workspace: Path) -> Path | None:
    """The store of the run whose app this is, which is there then; None of a job that is no run."""
    try:
        store = store_of(workspace, app)
    except FileNotFoundError:
        return None
    make(store)
    return store


def _command(fl_ctx: FLContext, names: Iterable[str]) -> str:
    given = fl_ctx.get_prop(FLContextKey.JOB_PROCESS_ARGS)
    words = [sys.executable]
    for name in names:
        if name in given:
            option, value = given[name]
            # the options are several words, none of which has a blank
            words += [option, *(value.split() if name == JobProcessArgs.OPTIONS else [value])]
    return shlex.join(map(str, words))
