"""What a job tells NVFlare, and its meta, which is what NVFlare keeps of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from nvflare.apis.job_def import JobMetaKey, RunStatus
from nvflare.private.defs import ERROR_MSG_PREFIX

SERVER_PARAMETERS: Final = {
    "server": {"task_request_interval": 0.1},  # a site may else ask for its next task only every 2 s
    "dead_client_grace_period": 5.0,  # seconds to wait for a site after its heartbeats stopped; else 60
}
"""NVFlare's settings of the server in a flaremesh job."""

FIRST_FAILURE: Final = "first_failure"
"""Key of a job's meta: the site whose process failed first, unless the job was aborted before."""

_UNFINISHED = {RunStatus.SUBMITTED, RunStatus.APPROVED, RunStatus.DISPATCHED, RunStatus.RUNNING}


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
    def refusals(self) -> dict[str, str]:
        """Why sites do not take the job in, by their names."""
        told = [detail.partition(f": {ERROR_MSG_PREFIX}: ") for detail in self.details]
        return {site: reason for site, _, reason in told if reason}

    @property
    def ended(self) -> bool:
        """Its status is final."""
        return self.status not in _UNFINISHED


def id_of(meta: Mapping[str, Any]) -> str:
    """The id of the job that a meta describes."""
    return str(meta[JobMetaKey.JOB_ID.value])


def job_of(meta: Mapping[str, Any]) -> Job:
    """The job that a meta describes."""
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
