"""The server's process from inside, as its agent sees and steers it.

This hides NVFlare's server engine, its job runner and its job manager.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from nvflare.apis.fl_constant import AdminCommandNames, FLContextKey, RunProcessKey, SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey, RunStatus
from nvflare.fuel.hci.server.constants import ConnProps
from nvflare.fuel.hci.server.reg import CommandFilter
from nvflare.private.fed.server.cmd_utils import CommandUtil
from nvflare.private.fed.server.job_cmds import CLONED_META_KEYS
from nvflare.private.fed.server.server_status import ServerStatus
from typing_extensions import override

from flaremesh.p2p.nvflare.cells import OVER, ParticipantCell
from flaremesh.p2p.nvflare.jobs import EVERYONE, id_of, job_of
from flaremesh.topology.schema import SERVER
from flaremesh.waiting import wait_while

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_SILENT = "client dead"  # what NVFlare tells a job of a site that has not been heard for heart_beat_timeout
_NOT_BEGUN = {RunStatus.SUBMITTED.value, RunStatus.APPROVED.value, RunStatus.DISPATCHED.value}
_NEVER_BEGUN = {RunStatus.FINISHED_CANT_SCHEDULE.value, RunStatus.FAILED_TO_RUN.value}
_PLACES = {key.value for key in (JobMetaKey.DEPLOY_MAP, JobMetaKey.MIN_CLIENTS, JobMetaKey.MANDATORY_CLIENTS)}
_SUBMITTER = {
    key.value for key in (JobMetaKey.SUBMITTER_NAME, JobMetaKey.SUBMITTER_ORG, JobMetaKey.SUBMITTER_ROLE)
}


class ServerProcess:
    """NVFlare's server engine.

    Args:
        fl_ctx: context of the agent's first event.
    """

    def __init__(self, fl_ctx: FLContext):
        self._engine = fl_ctx.get_engine()
        self._runner = self._engine.get_component(SystemComponents.JOB_RUNNER)
        self._silent_since: dict[str, float] = {}  # when a job was, or would have been, told so

    @property
    def cell(self) -> ParticipantCell | None:
        """The process's cell; NVFlare makes it at the end of the start."""
        cell = self._engine.get_cell()
        return None if cell is None else ParticipantCell(cell)

    def abandon_jobs(self, fl_ctx: FLContext) -> list[str]:
        """Give the jobs that an earlier process left running a final status; call it before any is run.

        Returns:
            Their ids.
        """
        left = self._jobs.get_jobs_by_status([RunStatus.DISPATCHED, RunStatus.RUNNING], fl_ctx)
        self._runner.update_unfinished_jobs(fl_ctx)
        return [job.job_id for job in left]

    def running_jobs(self) -> list[str]:
        """Ids of the jobs whose process runs here."""
        return list(self._runner.running_jobs)

    def is_aborted(self, job_id: str) -> bool:
        """Whether a running job was told to end; False while it is being started."""
        running = self._runner.running_jobs.get(job_id)
        return bool(running and running.run_aborted)

    def registered_sites(self) -> int:
        """How many sites are registered."""
        return len(self._engine.get_clients())

    def knows(self, site: str) -> bool:
        """Whether a site of this name is registered, and no admin has disabled it."""
        return self._engine.get_client_from_name(site) is not None

    def sites(self) -> dict[str, str]:
        """The sites that are registered, by name, with the token of each one's login."""
        return {client.name: client.token for client in self._engine.get_clients()}

    def report_restarted_sites(self) -> None:
        """Tell running jobs which of their sites have started again since, and so have no process of them.

        NVFlare asks for the jobs of a site by the token of its login, which a site that starts gets anew.
        """
        for job, process in list(self._engine.run_processes.items()):
            for token, began in list((process.get(RunProcessKey.PARTICIPANTS) or {}).items()):
                now = self._engine.get_client_from_name(began.name)
                if now is not None and now.token != token:
                    self._engine.notify_dead_job(job, began.name, "the site has started again")

    def tell_over(self, run: str, sites: Iterable[str]) -> None:
        """Tell sites that a run has finished everywhere, by the id in its order; they may not hear it."""
        if cell := self.cell:
            for site in sites:
                cell.tell(OVER, run.encode(), site)

    def hear_aborts(self, hear: Callable[[str], None]) -> None:
        """Let ``hear`` know of each job that an admin who may do so tells to end, whatever it does.

        Call it in SYSTEM_BOOTSTRAP, before NVFlare makes its admin server.
        """
        server = self._engine.server
        set_admin_server = server.set_admin_server

        def set_heard(admin_server: Any) -> None:
            admin_server.cmd_reg.add_filter(_Aborts(hear))
            set_admin_server(admin_server)

        server.set_admin_server = set_heard

    def bear_with_silence(self, patience: Callable[[str], float]) -> None:
        """From now on, tell a job only ``patience(its id)`` seconds later that a site of it is not heard.

        A site that is heard again before that is none of its business: sites that cannot reach the server, or
        are not reached by it, may still reach each other.
        """
        notify, waiting = self._engine.notify_dead_job, dict[tuple[str, str], threading.Timer]()

        def notify_late(job_id: str, site: str, reason: str) -> None:
            seconds = 0.0
            if reason == _SILENT:
                seconds, self._silent_since[site] = patience(job_id), time.monotonic()
            if (earlier := waiting.pop((job_id, site), None)) is not None:
                earlier.cancel()  # it has been heard since, or something worse has happened
            if seconds:
                _log.warning("%s is not heard: the job %s waits for it for %g s", site, job_id, seconds)
                timer = waiting[job_id, site] = threading.Timer(seconds, notify_if_silent, (job_id, site))
                timer.daemon = True
                timer.start()
            else:
                notify(job_id, site, reason)

        def notify_if_silent(job_id: str, site: str) -> None:
            if not self.knows(site) and job_id in self.running_jobs():
                notify(job_id, site, _SILENT)

        self._engine.notify_dead_job = notify_late

    def silence(self, sites: Collection[str]) -> float:
        """For how many seconds the one of ``sites`` has been silent that was heard last the longest ago."""
        now = time.monotonic()
        since = [now - self._silent_since.get(site, now) for site in sites if not self.knows(site)]
        return max(since, default=0.0)

    def note(self, job_id: str, entries: Mapping[str, Any]) -> None:
        """Add entries to what NVFlare keeps of a job, its meta; nothing if an admin has removed it."""
        with self._engine.new_context() as fl_ctx:
            if self._jobs.get_job(job_id, fl_ctx) is not None:
                self._jobs.update_meta(job_id, dict(entries), fl_ctx)

    def keeps(self, job_id: str) -> bool:
        """Whether a job has not been removed."""
        return self._status(job_id) is not None

    def waits(self, job_id: str) -> bool:
        """Whether a job has not begun, and still may."""
        return self._status(job_id) in _NOT_BEGUN

    def has_begun(self, job_id: str) -> bool:
        """Whether a job runs, or has run."""
        return self._status(job_id) not in {*_NOT_BEGUN, *_NEVER_BEGUN, None}

    def withdraw(self, job_id: str) -> None:
        """Let a job that waits not begin any more."""
        self.note(job_id, {JobMetaKey.STATUS.value: RunStatus.FINISHED_ABORTED.value})

    def was_withdrawn(self, job_id: str) -> bool:
        """Whether a job that waited was removed or told not to begin; one that has begun may end so, too."""
        return self._status(job_id) in {None, RunStatus.FINISHED_ABORTED.value}

    def is_abandoned(self, job_id: str) -> bool:
        """Whether the server ended while a job ran."""
        return bool(self._status(job_id) == RunStatus.ABANDONED.value)

    def refusals(self, job_id: str) -> dict[str, str]:
        """Why sites did not take a job in, by their names."""
        with self._engine.new_context() as fl_ctx:
            job = self._jobs.get_job(job_id, fl_ctx)
            return {} if job is None else job_of(job.meta).refusals

    def clone(self, job_id: str, sites: Collection[str], entries: Mapping[str, Any]) -> str | None:
        """Submit a job once more in its submitter's name, with what the submitter has signed.

        Args:
            job_id: the job's id.
            sites: names of those at which it is to run.
            entries: of the new job's meta: NVFlare may write there as soon as there is the job.

        Returns:
            The id of the new job; None if there is no job ``job_id``.
        """
        with self._engine.new_context() as fl_ctx:
            job = self._jobs.get_job(job_id, fl_ctx)
            if job is None:
                return None
            meta = {key: job.meta[key] for key in job.meta.keys() & {*CLONED_META_KEYS, *_SUBMITTER}}
            meta[JobMetaKey.CLONED_FROM.value] = job_id
            before = self._jobs.get_job(job.meta.get(JobMetaKey.CLONED_FROM.value) or job_id, fl_ctx) or job
            everywhere = (  # what an admin has cloned knows nothing of places where it did not run
                job.meta.get(EVERYONE)
                or before.meta.get(EVERYONE)
                or {key: meta[key] for key in meta.keys() & _PLACES}
            )
            meta |= {**_only_at(sites, everywhere), EVERYONE: everywhere, **entries}
            return id_of(self._jobs.clone(from_jid=job_id, meta=meta, fl_ctx=fl_ctx))

    def _status(self, job_id: str) -> str | None:
        with self._engine.new_context() as fl_ctx:
            job = self._jobs.get_job(job_id, fl_ctx)
            return None if job is None else str(job.meta[JobMetaKey.STATUS.value])

    @property
    def _jobs(self) -> Any:
        return self._engine.get_component(SystemComponents.JOB_MANAGER)

    def abort_jobs(self, timeout: float) -> None:
        """Abort all jobs and wait until their status is stored, ``timeout`` seconds at most."""
        with self._engine.new_context() as fl_ctx:
            for job in self.running_jobs():
                self._runner.stop_run(job, fl_ctx)
        wait_while(self.running_jobs, timeout, _POLL_SECONDS)

    def shut_down(self) -> None:
        """Leave the mesh; NVFlare's main thread goes on for 5 s after this."""
        self._engine.shutdown_server()
        while self._engine.server.status != ServerStatus.SHUTDOWN:
            time.sleep(_POLL_SECONDS)


class _Aborts(CommandFilter):
    """Comes after NVFlare's own filters, which know who may do what."""

    def __init__(self, hear: Callable[[str], None]):
        self._hear = hear

    @override
    def pre_command(self, conn: Any, args: list[str]) -> bool:
        if conn.get_prop(ConnProps.CMD_ENTRY).name == AdminCommandNames.ABORT_JOB:
            self._hear(str(conn.get_prop(CommandUtil.JOB_ID)))
        return True


def _only_at(sites: Collection[str], meta: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a job's meta that say where it runs, and that it needs all of these sites.

    Args:
        sites: their names.
        meta: these entries for all sites of the run.
    """
    if not set(meta.get(JobMetaKey.MANDATORY_CLIENTS.value) or ()).difference(sites):
        return dict(meta)
    deployed = {
        app: [place for place in places if place == SERVER or place in sites]
        for app, places in meta[JobMetaKey.DEPLOY_MAP.value].items()
    }
    return {
        JobMetaKey.DEPLOY_MAP.value: deployed,
        JobMetaKey.MIN_CLIENTS.value: len(sites),
        JobMetaKey.MANDATORY_CLIENTS.value: [*sites],
    }


def job_of_event(fl_ctx: FLContext) -> str:
    """Id of the job that ended, from the context of JOB_COMPLETED or JOB_ABORTED at the server."""
    return id_of(fl_ctx.get_prop(FLContextKey.EVENT_DATA))


def answer_admin(fl_ctx: FLContext, topic: str, answer: Callable[[], dict[str, Any]]) -> None:
    """Answer an admin's command to a running job.

    Args:
        fl_ctx: context of the job's process at the server.
        topic: of the command.
        answer: returns the answer, made of JSON's types.
    """

    def reply(topic: str, data: Any, fl_ctx: FLContext) -> dict[str, Any]:
        return answer()

    fl_ctx.get_engine().register_app_command(topic, reply)
