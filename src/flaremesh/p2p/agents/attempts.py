"""The attempts of runs at the server: what begins, what ends, and what an earlier process has left."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from flaremesh.metrics.names import RunState
from flaremesh.p2p import attempt
from flaremesh.p2p.agents.attendance import Attendance
from flaremesh.p2p.agents.next_attempt import KILLED, NextAttempt
from flaremesh.p2p.attempt import Attempt, CurrentAttempt, resumable_store
from flaremesh.p2p.gate import order
from flaremesh.p2p.gate.exported import extra_of
from flaremesh.p2p.gate.order import Order
from flaremesh.p2p.nvflare.jobs import LOST, NEXT_ATTEMPT
from flaremesh.p2p.nvflare.server import ServerProcess
from flaremesh.p2p.store import STORES, make

_log = logging.getLogger(__name__)

_STOPPED = "the server was stopped"
_UNHEARD = {RunState.FINISHED, RunState.ABORTED}  # as long as NVFlare has not noted the end of the job


class Attempts:
    """Begins further attempts of runs that go on after a loss.

    Args:
        workspace: of the server.
        process: the server's.
        app: the folder of a job's app at the server, by the job's id.
        ask: what a site answers to the question which jobs run there; None if it answers nothing.

    Attributes:
        lost: how many attempts have ended with a loss.
    """

    def __init__(
        self,
        workspace: Path,
        process: ServerProcess,
        app: Callable[[str], Path],
        ask: Callable[[str], bytes | None],
    ):
        self._workspace = workspace
        self._process = process
        self._app = app
        self._attendance = Attendance(process, ask)
        self._stores: dict[str, Path] = {}
        self._aborted: dict[str, str | None] = {}
        self._told_to_end: set[str] = set()
        self._leaving = False
        self.lost = 0

    def take_up(self, abandoned: Iterable[str] = ()) -> None:
        """Go on with the runs that an earlier process of the server left; call it before admins can ask.

        Args:
            abandoned: ids of the jobs that it left running.
        """
        for job in abandoned:
            try:
                self._keep_first(job)
            except Exception:  # noqa: BLE001  # whatever a job says, the server starts
                _log.exception("the job %s is not begun again", job)
        for store, last in self._last():
            if last.state in _UNHEARD and self._process.is_abandoned(last.job):
                last = replace(last, state=RunState.RUNNING)
                attempt.write(store, last)
            if not last.is_over:
                self._go_on(store, last)

    def leave(self) -> None:
        """The server stops: the runs that this ends go on when it starts again."""
        self._leaving = True

    def over(self) -> set[str]:
        """Names of the stores of runs that get no further attempt, also if an admin would resume them."""
        return {store.name for store, last in self._last() if last.has_finished}

    def missing(self) -> Iterator[tuple[str, str, float]]:
        """Which run waits for which site, or goes on without it, and since when, Unix time."""
        for _, last in self._last():
            if not last.is_over:
                yield from ((last.run_id, site, since) for site, since in last.missing.items())

    def patience(self, job: str) -> float:
        """Seconds that a job which iterates waits for a site that is not heard; 0 for any other job."""
        store = self._stores.get(job)
        last = attempt.read(store) if store else None
        iterates = last and last.job == job and last.state is RunState.RUNNING
        return last.patience if last and iterates else 0.0

    def started(self, job: str) -> None:
        """A job has begun, which may be an attempt of a run that an admin has resumed."""
        if store := resumable_store(self._workspace, self._app(job)):
            self._stores[job] = store
            asked = order.read(self._app(job))
            attempt.note_run(store, asked.run)
            if (last := attempt.read(store)) and last.job != job:
                self._process.note(last.job, {NEXT_ATTEMPT: job})
            elif last is None and asked.continues:
                self._continue(store, asked, job)
            self.registered()  # meanwhile

    def _continue(self, store: Path, asked: Order, job: str) -> None:
        """Let a run begin where the one is that it continues."""
        before = attempt.store_of_run(self._workspace, asked.continues)
        if before and (last := attempt.read(before)):
            attempt.write(store, replace(last.continued(asked.sites, asked.quorum), first=job, missing={}))

    def registered(self) -> None:
        """Sites have registered: a run that went on without them lets them join at its next checkpoint."""
        for store in list(self._stores.values()):
            if last := attempt.read(store):
                attempt.announce(store, self._attendance.back(store, last))

    def told_to_end(self, job: str) -> None:
        """An admin tells a job to end, which may have been lost already: its run gets no further attempt."""
        self._told_to_end.add(job)

    def aborted(self, job: str, failed_first: str | None) -> None:
        """A job that was told to end is about to be `ended`; or it could not begin.

        Args:
            job: its id.
            failed_first: the site whose process of it failed first; None where an admin has told it.
        """
        if job in self._stores:
            self._aborted[job] = failed_first

    def ended(self, job: str, failed_first: str | None) -> None:
        """A job has ended; ``failed_first`` is the site whose process of it failed first, unless none did."""
        was_aborted = job in self._aborted
        failed_first = self._aborted.pop(job, None) or failed_first
        store = self._stores.pop(job, None)
        last = attempt.read(store) if store else None
        if store is None or last is None or last.job != job:
            return
        if not last.state.ended:  # its process was killed before it could say more
            state = RunState.ABORTED if was_aborted else RunState.FAILED
            lost = None if was_aborted else KILLED
            last = replace(last, state=state, lost=lost)
        elif failed_first and last.state is RunState.ABORTED:  # NVFlare tells the controller no more
            last = replace(last, lost=f"{failed_first}: the job process ended before the run began")
        if self._leaving and last.state is RunState.ABORTED:
            last = replace(last, lost=_STOPPED)
        attempt.write(store, last)
        if last.lost:
            self._go_on(store, last)
        elif last.state is RunState.FINISHED:
            with suppress(OSError):  # a site that is told nothing counts the attempts itself
                self._process.tell_over(attempt.run_of(store), last.sites)

    def _last(self) -> Iterator[tuple[Path, Attempt]]:
        """The stores of the runs, and the last attempt of each."""
        for store in (self._workspace / STORES).glob("*"):
            if last := attempt.read(store):
                yield store, last

    def _keep_first(self, job: str) -> None:
        """Keep the first attempt of a run whose process was not up yet, and so has kept nothing of it."""
        app = self._app(job)
        store = resumable_store(self._workspace, app)
        if store and attempt.read(store) is None and (sites := order.read(app).sites):
            make(store)
            CurrentAttempt.begin(store, job, sites, extra_of(app))

    def _go_on(self, store: Path, last: Attempt) -> None:
        begun = last.job if self._process.waits(last.job) else None  # by an earlier process of the server
        if begun is None:
            self.lost += 1
            self._process.note(last.job, {LOST: last.lost or KILLED})
        if self._leaving:
            return
        following = NextAttempt(store, last, self._process, self._attendance, self._told_to_end)
        threading.Thread(target=following.begin, args=(begun,), name="attempts", daemon=True).start()
