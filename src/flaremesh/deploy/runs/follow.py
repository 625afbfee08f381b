"""Following a run at the server, from its job's beginning to its result."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from flaremesh.deploy.runs.session import AdminSession, ServerLost
from flaremesh.deploy.targets.base import DeployError
from flaremesh.metrics.names import RunState
from flaremesh.p2p.nvflare.jobs import ENDED_BY_ADMIN, Job
from flaremesh.p2p.outcome import RESULT, RUN_FOLDER, RUN_RESULT, RunResult
from flaremesh.p2p.progress import RunProgress
from flaremesh.printable import printable
from flaremesh.record import RecordError
from flaremesh.waiting import wait_while

_POLL_SECONDS = 0.2
_SILENCE_SECONDS = 10.0  # a server that does not answer for longer is lost
_NOTE_SECONDS = 1.0  # for the server's agent to write why a job failed
END_SECONDS: Final = 15.0
"""So long may a job take to end: NVFlare kills a process 10 s after it was told to end."""

ABORTED_ELSEWHERE: Final = "aborted from elsewhere, by `flaremesh abort`, `flaremesh down` or another admin"


def follow(
    session: AdminSession, run_id: str, show: Callable[[str, RunProgress], None], stop: threading.Event
) -> RunResult | None:
    """Watch a run until it has a result; returns None if ``stop`` was set before.

    The controller has the result seconds before NVFlare ends the job.
    """
    heard = time.monotonic()
    while not stop.wait(_POLL_SECONDS):
        progress = session.progress(run_id)
        if progress:
            show(run_id, progress)
            if progress.result:
                return _explained(session, run_id, progress.result)
        try:
            if not progress and session.job(run_id).ended:
                return _ended(session, run_id)
            heard = time.monotonic()
        except ServerLost:
            if time.monotonic() - heard > _SILENCE_SECONDS:
                raise
    return None


def abort(session: AdminSession, job_id: str) -> RunResult:
    """Abort a run in whatever state it is, and wait for its end; returns what is known of it.

    Args:
        session: with the server.
        job_id: id of its last attempt, or of the one before.
    """
    job_id = session.job(job_id).next_attempt or job_id
    told = _downloaded(session, job_id) if session.abort(job_id, END_SECONDS) else None
    if (told and told.lost) or session.job(job_id).goes_on:  # until the server has noted that it does not
        wait_while(
            lambda: session.job(job_id).goes_on and not _clones(session, job_id), _NOTE_SECONDS, _POLL_SECONDS
        )
        for clone in _clones(session, job_id):  # it was just beginning one
            session.abort(clone, END_SECONDS)
    if told and told.outcome == RunState.FINISHED:  # before it was told to end
        return replace(told, run_id=job_id)
    told = told or RunResult(job_id, RunState.ABORTED)
    return replace(told, run_id=job_id, outcome=RunState.ABORTED, reason=None, lost=False)


def _clones(session: AdminSession, job_id: str) -> list[str]:
    return [clone for clone, job in session.unfinished().items() if job.cloned_from == job_id]


def _ended(session: AdminSession, run_id: str) -> RunResult:
    """The result of a job that has ended, or the reason why it left none."""
    result = _downloaded(session, run_id)
    if result:
        return _explained(session, run_id, result)
    failure = _first_failure(session, run_id)
    if session.job(run_id).cloned_from:  # an attempt that could not begin is followed by another
        wait_while(lambda: session.job(run_id).lost is None, _NOTE_SECONDS, _POLL_SECONDS)
    job = session.job(run_id)
    return RunResult(
        run_id, RunState.FAILED, reason=failure or job.lost or reason_of(job), lost=job.lost is not None
    )


def _downloaded(session: AdminSession, run_id: str) -> RunResult | None:
    """The result that the server keeps; one that cannot be read is a failure with that reason."""
    try:
        kept = session.download(run_id, f"{RUN_FOLDER}/{RESULT}")
        return RUN_RESULT.read(kept, f"what the server keeps of the run {run_id}") if kept else None
    except ServerLost:
        raise
    except (RecordError, DeployError) as error:
        return failed(run_id, str(error))


def _explained(session: AdminSession, run_id: str, result: RunResult) -> RunResult:
    """The result, with a reason where NVFlare told the controller to end without one.

    It does so when a job process dies before its site begins, when the server stops, and when another admin
    aborts the run.
    """
    if result.outcome != RunState.ABORTED or result.reason:
        return result
    reason, lost = _first_failure(session, run_id), session.job(run_id).lost
    if reason or lost:
        return replace(result, outcome=RunState.FAILED, reason=reason or lost, lost=lost is not None)
    return replace(result, reason=ABORTED_ELSEWHERE)


def _first_failure(session: AdminSession, run_id: str) -> str | None:
    """A reason that names the site whose process failed first, which the server's agent writes at the end."""
    session.wait(run_id, END_SECONDS)
    wait_while(lambda: session.job(run_id).first_failure is None, _NOTE_SECONDS, _POLL_SECONDS)
    site = session.job(run_id).first_failure
    return site and f"{site}: the job process ended before the run began; killed, or out of memory"


def failed(run_id: str, reason: str) -> RunResult:
    """The result of a run that left none."""
    return RunResult(run_id, RunState.FAILED, reason=reason)


def reason_of(job: Job) -> str:
    """Why a job left no result, from what NVFlare noted when it deployed and scheduled it."""
    if job.refusals:
        return why_refused(job)
    details = [detail for detail in job.details if not detail.endswith(": OK")]
    return f"NVFlare ended the job with {job.status}" + (f": {'; '.join(details)}" if details else "")


def why_refused(job: Job) -> str:
    """Each reason for which sites did not take a job in, behind the names of these sites."""
    sites: defaultdict[str, list[str]] = defaultdict(list)
    for site, told in job.refusals.items():
        sites[printable(told)].append(printable(site))
    return ". ".join(f"{', '.join(names)}: {told}" for told, names in sites.items()) + "."


def next_attempt(
    session: AdminSession, job_id: str, lost: RunResult, stop: threading.Event
) -> str | RunResult | None:
    """The job in which a run goes on, or how it ended instead; None if ``stop`` was set before.

    Args:
        session: with the server.
        job_id: id of the job that was lost.
        lost: its result.
        stop: set it to follow the run no longer.
    """
    while not (job := session.job(job_id)).next_attempt:
        if job.given_up == ENDED_BY_ADMIN:
            return replace(lost, outcome=RunState.ABORTED, reason=ABORTED_ELSEWHERE, lost=False)
        if job.given_up:
            return replace(lost, reason=f"{lost.reason}; {job.given_up}", lost=False)
        if stop.wait(_POLL_SECONDS):
            return None
    return job.next_attempt
