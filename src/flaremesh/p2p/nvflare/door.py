"""Where NVFlare's server asks a site's own process for something, and how little of it is answered.

This hides the component that takes in a job, and the list of what else a server may ask. NVFlare looks at
rights only where the server says so, unpacks an app before it knows whose it is, and believes any id for a
folder's name.
"""

import json
import logging
import threading
import uuid
from abc import abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from nvflare.apis.app_deployer_spec import AppDeployerSpec
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import AdminCommandNames, FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey
from nvflare.apis.workspace import Workspace
from nvflare.private.admin_defs import Message, error_reply, ok_reply
from nvflare.private.defs import InfoCollectorTopic, RequestHeader, SysCommandTopic, TrainingTopic
from nvflare.private.fed.client.admin import RequestProcessor
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors
from nvflare.private.fed.utils.app_deployer import AppDeployer
from nvflare.security.security import CommandCategory
from typing_extensions import override

from flaremesh.certificates import Identity

_log = logging.getLogger(__name__)

_ANSWERED: Final = frozenset(
    {
        TrainingTopic.ABORT,
        TrainingTopic.ABORT_TASK,
        TrainingTopic.CHECK_STATUS,
        TrainingTopic.CHECK_RESOURCE,
        TrainingTopic.CANCEL_RESOURCE,
        TrainingTopic.NOTIFY_JOB_STATUS,
        TrainingTopic.GET_SCOPES,
        InfoCollectorTopic.SHOW_STATS,
        InfoCollectorTopic.SHOW_ERRORS,
        InfoCollectorTopic.RESET_ERRORS,
        SysCommandTopic.REPORT_RESOURCES,
        SysCommandTopic.REPORT_VERSION,
    }
)

OPENED_BY: Final = {
    SysCommandTopic.SHELL: CommandCategory.SHELL_COMMANDS,
    SysCommandTopic.SYS_INFO: AdminCommandNames.SYS_INFO,
    SysCommandTopic.REPORT_ENV: AdminCommandNames.REPORT_ENV,
    SysCommandTopic.CONFIGURE_SITE_LOG: AdminCommandNames.CONFIGURE_SITE_LOG,
    TrainingTopic.CONFIGURE_JOB_LOG: AdminCommandNames.CONFIGURE_JOB_LOG,
    TrainingTopic.SHUTDOWN: AdminCommandNames.SHUTDOWN,
    TrainingTopic.RESTART: AdminCommandNames.RESTART,
}
"""What no run needs: a site answers where its own ``local/authorization.json`` gives a role this right."""


MOST_WAITING: Final = 100
"""Jobs that were let in and have not been started; the next one displaces the first."""


class Door(FLComponent, AppDeployerSpec):
    """Takes in jobs at a site, and closes what else a server could ask.

    Only a job that was let in is started, once, and of what the server says of it only what its process needs
    is kept.

    Attributes:
        refused: how often a job was not let in, or not begun.
        starting: held from the decision whether a job may begin until its process runs.
    """

    def __init__(self) -> None:
        super().__init__()
        self._engine: Any = None
        self._waiting: dict[str, Mapping[str, Any]] = {}
        self._lock = threading.Lock()
        self._deploying = threading.Lock()
        self.starting = threading.Lock()
        self.refused = 0

    @abstractmethod
    def admit(self, workspace: Path, job: str, app: bytes) -> Identity | str:
        """Decide on a job.

        Args:
            workspace: of the site.
            job: NVFlare's id.
            app: the archive.

        Returns:
            Who signed it, or why it is refused, in words for the submitter.
        """

    @abstractmethod
    def begin(self, workspace: Path, job: str) -> str | None:
        """Decide whether a job that was let in may start, now that the server says so.

        Args:
            workspace: of the site.
            job: NVFlare's id.

        Returns:
            Why not; None if it may.
        """

    @override
    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Close the site before it registers with the server."""
        if event_type == EventType.SYSTEM_BOOTSTRAP:
            self._engine = fl_ctx.get_engine()
            self._workspace = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir())
            self._close()

    @override
    def deploy(
        self,
        workspace: Workspace,
        job_id: str,
        job_meta: dict[str, Any],
        app_name: str,
        app_data: bytes,
        fl_ctx: FLContext,
    ) -> str:
        """Called by NVFlare when the server sends an app; returns why it is refused, or nothing."""
        # one after the other: two apps that are unpacked into one folder at once would be mixed
        with self._deploying:
            return self._deploy(workspace, job_id, job_meta, app_data, fl_ctx)

    def _deploy(
        self, workspace: Workspace, job_id: str, job_meta: dict[str, Any], app_data: bytes, fl_ctx: FLContext
    ) -> str:
        if not _is_job(job_id) or Path(workspace.get_run_dir(job_id)).exists():
            return "the server gives the job an id that is none, or that an earlier one has"
        if not isinstance(app_data, bytes) or not isinstance(job_meta, Mapping):
            return "the server sends no app"
        signer = self.admit(Path(workspace.get_root_dir()), job_id, app_data)
        if isinstance(signer, str):
            return signer
        meta = {
            JobMetaKey.JOB_ID.value: job_id,
            JobMetaKey.RESOURCE_SPEC.value: job_meta.get(JobMetaKey.RESOURCE_SPEC.value),
            JobMetaKey.SUBMITTER_NAME.value: signer.name,
            JobMetaKey.SUBMITTER_ORG.value: signer.org,
            JobMetaKey.SUBMITTER_ROLE.value: signer.role,
        }
        if refusal := AppDeployer().deploy(workspace, job_id, meta, "app", app_data, fl_ctx):
            return str(refusal)
        with self._lock:
            self._waiting[job_id] = meta
            if len(self._waiting) > MOST_WAITING:
                del self._waiting[next(iter(self._waiting))]
        return ""

    def running_jobs(self) -> Collection[str]:
        """Ids of the jobs whose process runs at the site."""
        return self._engine.get_all_job_ids() if self._engine else ()

    def count_refusal(self) -> None:
        """One more."""
        with self._lock:
            self.refused += 1

    def take(self, job_id: str) -> Mapping[str, Any] | None:
        """What is known of a job that was let in and has not been started; a second call knows nothing."""
        with self._lock:
            return self._waiting.pop(job_id, None)

    def refusal(self, job_id: str) -> str | None:
        """Why a job that was taken may not start."""
        return self.begin(self._workspace, job_id)

    def _close(self) -> None:
        # the list that NVFlare registers once the site is connected
        processors = ClientRequestProcessors.request_processors
        opened = _opened(self._workspace / "local" / "authorization.json")
        answered = _ANSWERED | {topic for topic, right in OPENED_BY.items() if right in opened}
        processors[:] = [
            # a server can have the event fired once more
            processor if isinstance(processor, _Guard) else self._guarded(processor, answered)
            for processor in processors
        ]

    def _guarded(self, processor: RequestProcessor, answered: frozenset[str]) -> RequestProcessor:
        match processor.get_topics():
            case [TrainingTopic.DEPLOY]:
                return _Deploy(processor)
            case [TrainingTopic.START_JOB]:
                return _Start(processor, self)
            case [TrainingTopic.DELETE_RUN]:
                return _Withdraw(processor, self)
            case topics:
                return (_Guard if answered.issuperset(topics) else _Closed)(processor)


class _Guard(RequestProcessor):
    """Answers what NVFlare does, of jobs whose id can be one: NVFlare makes a folder's name of it."""

    def __init__(self, processor: RequestProcessor):
        self._processor = processor

    @override
    def get_topics(self) -> list[str]:
        return list(self._processor.get_topics())

    @override
    def process(self, req: Message, app_ctx: Any) -> Message:
        job = req.get_header(RequestHeader.JOB_ID, None)
        if job and not _is_job(job):
            return self._refuse(req, "the server gives the job an id that is none")
        return self._process(req, app_ctx)

    def _process(self, req: Message, app_ctx: Any) -> Message:
        return self._processor.process(req, app_ctx)

    def _refuse(self, req: Message, reason: str) -> Message:
        _log.warning("the server's %s is refused: %s", ", ".join(self.get_topics()), reason)
        return error_reply(reason)


class _Closed(_Guard):
    @override
    def _process(self, req: Message, app_ctx: Any) -> Message:
        return self._refuse(
            req,
            "this site answers only what runs need; its own admin can open it in local/authorization.json",
        )


class _Deploy(_Guard):
    """Goes straight to the door; NVFlare's own unpacks the app first, whoever sent it and however large."""

    @override
    def _process(self, req: Message, app_ctx: Any) -> Message:
        name = app_ctx.get_client_name()
        reason = app_ctx.deploy_app(
            app_name="app",
            job_id=req.get_header(RequestHeader.JOB_ID, None),
            job_meta=req.get_header(RequestHeader.JOB_META, None),
            client_name=name,
            app_data=req.body,
        )
        return self._refuse(req, reason) if reason else ok_reply(body=f"deployed to {name}")


class _Start(_Guard):
    def __init__(self, processor: RequestProcessor, door: Door):
        super().__init__(processor)
        self._door = door

    @override
    def _process(self, req: Message, app_ctx: Any) -> Message:
        meta = self._door.take(req.get_header(RequestHeader.JOB_ID, ""))
        told = req.get_header(RequestHeader.JOB_META, None)
        if meta is None or not isinstance(told, Mapping):
            return self._refuse(req, "this site has not let this job in just now, and starts none twice")
        with self._door.starting:
            if refusal := self._door.refusal(str(meta[JobMetaKey.JOB_ID.value])):
                return self._refuse(req, refusal)
            clients = told.get(JobMetaKey.JOB_CLIENTS.value)
            req.set_header(RequestHeader.JOB_META, {**meta, JobMetaKey.JOB_CLIENTS.value: clients})
            return super()._process(req, app_ctx)


class _Withdraw(_Start):
    """Removes a job that was let in and never started, and no run that has results."""

    @override
    def _process(self, req: Message, app_ctx: Any) -> Message:
        if self._door.take(req.get_header(RequestHeader.JOB_ID, "")) is None:
            return self._refuse(req, "what a run has left belongs to the site")
        return self._processor.process(req, app_ctx)


def _opened(file: Path) -> frozenset[str]:
    """The rights that a site's own admin gives any role at all; none where the file cannot be read."""
    try:
        permissions = json.loads(file.read_text())["permissions"]
        return frozenset(
            right
            for rights in permissions.values()
            if isinstance(rights, dict)
            for right, condition in rights.items()
            if condition != "none"
        )
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        _log.exception("nothing that %s could open is open", file)
        return frozenset()


def _is_job(name: object) -> bool:
    try:
        return isinstance(name, str) and str(uuid.UUID(name)) == name
    except ValueError:
        return False
