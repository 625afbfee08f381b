"""What follows an attempt that was lost: another one once all sites are back, or the end of the run."""

import logging
import time
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from flaremesh.metrics.names import RunState
from flaremesh.p2p import attempt
from flaremesh.p2p.agents.attendance import Attendance
from flaremesh.p2p.attempt import Attempt
from flaremesh.p2p.nvflare.jobs import ENDED_BY_ADMIN, GIVEN_UP, LOST, MISSING, NEXT_ATTEMPT
from flaremesh.p2p.nvflare.server import ServerProcess
from flaremesh.waiting import wait_while

_log = logging.getLogger(__name__)

KILLED: Final = "the server's process of the job ended without a word"
"""What was lost where the attempt itself could say nothing."""

_POLL_SECONDS = 0.2
_RETRY_SECONDS = 0.5  # after an attempt that could not begin; after each further one twice as long
_RETRY_SECONDS_MAX = 30.0
_LEAVE_SECONDS = 15.0  # for the sites that are there to end the job that was lost
_JOIN_SECONDS = 30.0  # for an attempt to begin with sites that are back: the others wait meanwhile
_MOST_FRUITLESS = 3  # attempts that end before the next checkpoint: what ends them comes again


class NextAttempt:
    """The next attempt of a run that waits for whom it has lost.

    Args:
        store: of the run.
        last: its last attempt.
        process: the server's.
        attendance: of the sites.
        told_to_end: ids of jobs that admins tell to end; it grows while this waits.
    """

    def __init__(
        self,
        store: Path,
        last: Attempt,
        process: ServerProcess,
        attendance: Attendance,
        told_to_end: Collection[str],
    ):
        self._store, self._last, self._next = store, last, last
        self._process, self._attendance, self._told_to_end = process, attendance, told_to_end
        self._jobs = {last.job}

    def begin(self, job: str | None = None) -> None:
        """Begin it once all sites are back, and as often as it cannot begin.

        After its patience, a run that may lose sites goes on with those that are there.

        Args:
            job: the next attempt's, if an earlier process of the server has submitted it.
        """
        self._last = self._last.apart()
        if self._last.fruitless >= _MOST_FRUITLESS:
            self._give_up(f"the run was lost {self._last.fruitless + 1} times before its next checkpoint")
            return
        deadline, pause = time.monotonic() + self._patience(), _RETRY_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            if job is None:
                if wait_while(self._missing, left, _POLL_SECONDS):
                    break
                if (job := self._submit()) is None:
                    return
                self._jobs.add(job)
            left = deadline - time.monotonic()
            most = min(left, _JOIN_SECONDS) if self._next.joining else left
            wait_while(partial(self._process.waits, job), most, _POLL_SECONDS)
            if self._process.waits(job):
                self._process.withdraw(job)
            elif self._is_settled(job):
                return
            # who follows the one that has not begun is told that there is a next
            self._process.note(job, {LOST: self._last.lost or KILLED})
            self._last, job = replace(self._last, job=job, first=self._last.run_id), None
            time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
            pause = min(2 * pause, _RETRY_SECONDS_MAX)
        self._go_on_without(self._missing())

    def _patience(self) -> float:
        """Seconds to wait; the attempt before has waited, too."""
        patience = self._last.patience
        return max(patience - self._process.silence(self._last.sites), min(patience, _LEAVE_SECONDS))

    def _missing(self) -> list[str]:
        """The sites that keep it from beginning; none if an admin has ended the run, or removed its job."""
        if not self._jobs.isdisjoint(self._told_to_end) or not self._process.keeps(self._last.job):
            gone = []
        else:
            gone = self._attendance.missing(self._last.sites, self._jobs)
        before = dict(self._last.missing)
        now = {site: before.get(site, time.time()) for site in (*self._last.absent, *gone)}
        if now != before:
            self._last = replace(self._last, missing=now)
            attempt.write(self._store, self._last)
            self._process.note(self._last.job, {MISSING: now})
        return gone

    def _submit(self) -> str | None:
        """Its job, with the sites that are back; None if an admin has ended the run, or removed its job."""
        last = self._last
        next_ = last.joined_by(self._attendance.try_to_join(self._store, last, self._jobs))
        away = {site: since for site, since in last.missing.items() if site not in next_.sites}
        ended = last.job in self._told_to_end
        job = None if ended else self._process.clone(last.job, next_.sites, {MISSING: away})
        if job is None:
            attempt.write(self._store, replace(last, state=RunState.ABORTED, lost=None))
            self._process.withdraw(last.job)
            self._process.note(last.job, {GIVEN_UP: ENDED_BY_ADMIN})
            return None
        attempt.announce(self._store, ())
        _log.info("the run goes on as the job %s: %s", job, last.lost or KILLED)
        self._next = replace(next_, job=job, first=last.run_id, missing=away, state=RunState.WAITING)
        attempt.write(self._store, self._next)
        self._process.note(last.job, {NEXT_ATTEMPT: job})
        return job

    def _is_settled(self, job: str) -> bool:
        """Whether an attempt that waits no more has begun, or is the last."""
        waiting = attempt.read(self._store)
        if waiting and waiting.state is RunState.WAITING and self._process.was_withdrawn(job):
            attempt.write(self._store, replace(waiting, state=RunState.ABORTED, lost=None))  # by an admin
            return True
        if self._process.has_begun(job):
            return True
        refusals = self._process.refusals(job)
        if refusals.keys() <= set(self._next.joining):  # the others go on without those
            return False
        self._give_up("; ".join(f"{site}: {why}" for site, why in refusals.items()))
        return True  # the sites would say the same again

    def _go_on_without(self, missing: Collection[str]) -> None:
        """Begin one without the sites that are missing when the patience is over, if the run may."""
        last = self._last
        there = tuple(site for site in last.sites if site not in missing)
        why = f"not there: {', '.join(missing)}" if missing else "its next attempt cannot begin"
        why = f"{why}, after {last.patience:g} s"
        if not (missing and last.quorum):
            self._give_up(why)
        elif len(there) < last.quorum:
            self._give_up(f"{why}; {len(there)} of {last.quorum} sites that must be there to go on are")
        else:
            _log.warning("the job %s goes on without who is %s", last.job, why)
            self._last = replace(last, sites=there, absent=tuple(sorted({*last.absent, *missing})))
            self.begin()

    def _give_up(self, why: str) -> None:
        attempt.write(self._store, replace(self._last, state=RunState.FAILED, lost=None))
        self._process.note(self._last.job, {GIVEN_UP: why})
