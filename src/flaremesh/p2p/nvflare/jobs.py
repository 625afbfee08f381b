"""What a job tells NVFlare, and its meta, which is what NVFlare keeps of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, TypeGuard

from nvflare.apis.job_def import JobMetaKey, RunStatus
from nvflare.private.defs import ERROR_MSG_PREFIX

from flaremesh.metrics.names import RunState
from flaremesh.printable import printable
from flaremesh.record import MOST_CHARACTERS
from flaremesh.topology.schema import MOST_SITES

SERVER_PARAMETERS: Final = {
    "server": {"task_request_interval": 0.1},  # a site may else ask for its next task only every 2 s
    "dead_client_grace_period": 5.0,  # seconds to wait for a site after its heartbeats stopped; else 60
}
"""NVFlare's settings of the server in a flaremesh job."""

SITE_PARAMETERS: Final = {
    "submit_task_result_timeout": 15.0,  # seconds until a result without an answer is sent again; else 300
}
"""NVFlare's settings of the sites in a flaremesh job."""

FIRST_FAILURE: Final = "first_failure"
"""Key of a job's meta: the site whose process failed first, unless the job was aborted before."""

LOST: Final = "lost"
"""Key of a job's meta: what was lost, if its run goes on in another job as soon as it can."""

NEXT_ATTEMPT: Final = "next_attempt"
"""Key of a job's meta: the job in which its run goes on, after this one was lost."""

GIVEN_UP: Final = "given_up"
"""Key of a job's meta: why its run does not go on, although this job was lost."""

MISSING: Final = "missing"
"""Key of a job's meta: the sites that its run waits for or goes on without, and since when, Unix time."""

ENDED_BY_ADMIN: Final = "an admin has ended it while it waited"
"""What GIVEN_UP says of a run that was aborted between two attempts."""

EVERYONE: Final = "everyone"
"""Key of a job's meta: where its run's first job ran, if this one runs without some of those sites."""

_MOST_DETAILS = 1000
_ID = re.compile(r"[\w-]{1,64}", re.ASCII)
_NOT_BEGUN = {RunStatus.SUBMITTED, RunStatus.APPROVED, RunStatus.DISPATCHED}
_UNFINISHED = _NOT_BEGUN | {RunStatus.RUNNING}
_STATES = {
    RunStatus.RUNNING: RunState.RUNNING,
    RunStatus.FINISHED_COMPLETED: RunState.FINISHED,
    RunStatus.FINISHED_ABORTED: RunState.ABORTED,
}
_LATEST = 4102444800.0  # the year 2100: no job was submitted later


@dataclass(frozen=True)
class Job:
    """NVFlare's view of a run.

    Attributes:
        name: of the run.
        status: e.g. RUNNING or FINISHED:COMPLETED.
        details: what NVFlare noted when it deployed and scheduled the job.
        first_failure: the site whose process failed first, None where none did or the job was aborted before.
        lost: what was lost, if the run is to go on in another job; None otherwise.
        next_attempt: the job in which the run goes on; None where no such job was begun.
        given_up: why the run does not go on; None where nobody has said so.
        cloned_from: the job whose content this one has; None where it was submitted itself.
        submitter: name of the admin in whose name it was submitted.
        submitted: when that was, in seconds since 1970; 0 if unknown.
        missing: the sites that the run waits for or goes on without, and since when, Unix time.
    """

    name: str
    status: str
    details: tuple[str, ...]
    first_failure: str | None
    lost: str | None = None
    next_attempt: str | None = None
    given_up: str | None = None
    cloned_from: str | None = None
    submitter: str = ""
    submitted: float = 0.0
    missing: Mapping[str, float] = field(default_factory=dict)

    @property
    def refusals(self) -> dict[str, str]:
        """Why sites do not take the job in, by their names."""
        told = [detail.partition(f": {ERROR_MSG_PREFIX}: ") for detail in self.details]
        return {site: reason for site, _, reason in told if reason}

    @property
    def ended(self) -> bool:
        """Its status is final."""
        return self.status not in _UNFINISHED

    @property
    def begun(self) -> bool:
        """All sites have let it in, and its processes are started, or it has ended."""
        return self.status not in _NOT_BEGUN

    @property
    def goes_on(self) -> bool:
        """It was lost, and its run goes on in another job, or is to."""
        return self.lost is not None and self.given_up is None

    @property
    def state(self) -> RunState:
        """The state of a run of which this is the last job."""
        if not self.begun or self.goes_on:
            return RunState.WAITING
        return _STATES.get(self.status, RunState.FAILED)


def is_id(value: object) -> TypeGuard[str]:
    """Whether it may be the id of a job, and so the name of a folder and a word of a command."""
    return isinstance(value, str) and bool(_ID.fullmatch(value))


def id_of(meta: Mapping[str, Any]) -> str:
    """The id of the job that a meta describes.

    Raises:
        ValueError: it cannot be one.
    """
    job_id = meta[JobMetaKey.JOB_ID.value]
    if not is_id(job_id):
        raise ValueError(f"a job has an id that cannot be one: {printable(job_id, 80)}")
    return str(job_id)


def job_of(meta: Mapping[str, Any]) -> Job:
    """The job that a meta describes, in printable words; what is longer than it can be is cut."""
    details = (
        detail
        for key in (JobMetaKey.JOB_DEPLOY_DETAIL, JobMetaKey.SCHEDULE_HISTORY)
        for detail in (meta.get(key.value) or ())
    )
    failed, lost, given_up = (
        None if meta.get(key) is None else printable(meta[key], 500)
        for key in (FIRST_FAILURE, LOST, GIVEN_UP)
    )
    following, origin = meta.get(NEXT_ATTEMPT), meta.get(JobMetaKey.CLONED_FROM.value)
    submitted = meta.get(JobMetaKey.SUBMIT_TIME.value)
    return Job(
        name=printable(meta.get(JobMetaKey.JOB_NAME.value, ""), 256),
        status=printable(meta[JobMetaKey.STATUS.value], 80),
        details=tuple(printable(detail, 500) for detail in islice(details, _MOST_DETAILS)),
        first_failure=failed,
        lost=lost,
        next_attempt=following if is_id(following) else None,
        given_up=given_up,
        cloned_from=origin if is_id(origin) else None,
        submitter=printable(meta.get(JobMetaKey.SUBMITTER_NAME.value, ""), 256),
        submitted=float(submitted) if _is_time(submitted) else 0.0,
        missing=_missing(meta.get(MISSING)),
    )


def _missing(told: object) -> dict[str, float]:
    """Sites and moments; what is neither is left out."""
    if not isinstance(told, dict):
        return {}
    return {
        printable(site, MOST_CHARACTERS): float(since)
        for site, since in islice(told.items(), MOST_SITES)
        if _is_time(since)
    }


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 < value < _LATEST
