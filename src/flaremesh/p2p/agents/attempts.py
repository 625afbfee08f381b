"""The attempts of runs at the server: after one that was lost, the next begins once all sites are back.

After its patience, a run that may lose sites goes on with those that are there.
"""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from flaremesh.metrics.names import RunState
from flaremesh.p2p import attempt
from flaremesh.p2p.attempt import Attempt, CurrentAttempt, resumable_store
from flaremesh.p2p.gate import order
from flaremesh.p2p.gate.exported import extra_of
from flaremesh.p2p.gate.order import Order
from flaremesh.p2p.nvflare.jobs import ENDED_BY_ADMIN, GIVEN_UP, LOST, MISSING, NEXT_ATTEMPT
from flaremesh.p2p.nvflare.server import ServerProcess
from flaremesh.p2p.store import STORES, make
from flaremesh.waiting import wait_while

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_KILLED = "the server's process of the job ended without a word"
_STOPPED = "the server was stopped"
_UNHEARD = {RunState.FINISHED, RunState.ABORTED}  # as long as NVFlare has not noted the end of the job
_LEAVE_SECONDS = 15.0  # for the sites that are there to end the job that was lost
_JOIN_SECONDS = 30.0  # for an attempt to begin with sites that are back: the others wait meanwhile
_MOST_TRIES = 2  # of a site that has logged in, to join: what keeps it out would do so again
_MOST_RANGES = 1000  # of iterations with the same sites: one that comes and goes lets the others go on
_MOST_FRUITLESS = 3  # attempts that end before the next checkpoint: what ends them comes again


class _Run(NamedTuple):
    store: Path
    attempt: Attempt


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
        self._ask = ask
        self._stores: dict[str, Path] = {}
        self._aborted: dict[str, str | None] = {}
        self._told_to_end: set[str] = set()
        self._tries: Counter[tuple[str, str, str]] = Counter()
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
                self._go_on(_Run(store, last))

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
        """Seconds that a running job waits for a site that is not heard; 0 where a loss ends the run."""
        store = self._stores.get(job)
        last = attempt.read(store) if store else None
        return last.patience if last and last.job == job else 0.0

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
                attempt.announce(store, self._back(store, last))

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
            lost = None if was_aborted else _KILLED
            last = replace(last, state=state, lost=lost)
        elif failed_first and last.state is RunState.ABORTED:  # NVFlare tells the controller no more
            last = replace(last, lost=f"{failed_first}: the job process ended before the run began")
        if self._leaving and last.state is RunState.ABORTED:
            last = replace(last, lost=_STOPPED)
        attempt.write(store, last)
        if last.lost:
            self._go_on(_Run(store, last))
        elif last.state is RunState.FINISHED:
            self._process.tell_over(store.name, last.sites)

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

    def _go_on(self, run: _Run) -> None:
        job = run.attempt.job
        begun = job if self._process.waits(job) else None  # by an earlier process of the server
        if begun is None:
            self.lost += 1
            self._process.note(job, {LOST: run.attempt.lost or _KILLED})
        if self._leaving:
            return
        threading.Thread(target=self._next, args=(run, begun), name="attempts", daemon=True).start()

    def _next(self, run: _Run, job: str | None) -> None:
        """Begin the next attempt once all sites are back, and as often as it cannot begin.

        Args:
            run: the run.
            job: the next attempt, if that only waits to begin.
        """
        begun, run = run, run._replace(attempt=run.attempt.apart())
        last = run.attempt
        if last.fruitless >= _MOST_FRUITLESS:
            self._give_up(run, f"the run was lost {last.fruitless + 1} times before its next checkpoint")
            return
        patience = last.patience - self._process.silence(last.sites)  # the attempt before has waited, too
        patience = max(patience, min(last.patience, _LEAVE_SECONDS))
        deadline, jobs = time.monotonic() + patience, {last.job}

        def missing() -> list[str]:
            nonlocal run
            # nobody waits for a run that an admin has removed, and none begins
            gone = self._missing(last.sites, jobs) if self._process.keeps(run.attempt.job) else []
            run = self._noted(run, gone)
            return gone

        while (left := deadline - time.monotonic()) > 0:
            if job is None:
                if wait_while(missing, left, _POLL_SECONDS):
                    break
                begun = self._joined(run, jobs)
                if (job := self._begin(begun)) is None:
                    return
                jobs.add(job)
            left = deadline - time.monotonic()
            most = min(left, _JOIN_SECONDS) if begun.attempt.joining else left
            wait_while(partial(self._process.waits, job), most, _POLL_SECONDS)
            if self._process.waits(job):
                self._process.withdraw(job)
            elif self._is_settled(begun, job):
                return
            run, job = self._told(run, job), None
        gone = missing()
        self._go_on_without(gone, run)

    def _back(self, store: Path, last: Attempt) -> list[str]:
        """The sites that are back, and have not tried in vain to join since."""
        if not last.quorum or len(last.members) >= _MOST_RANGES:
            return []
        logins = self._process.sites()
        return [
            site
            for site in last.absent
            if site in logins and self._tries[store.name, site, logins[site]] < _MOST_TRIES
        ]

    def _joined(self, run: _Run, jobs: Collection[str]) -> _Run:
        """The run as its next attempt has it: with the sites that are back."""
        back = [site for site in self._back(run.store, run.attempt) if self._is_free(site, jobs)]
        logins = self._process.sites()
        self._tries.update((run.store.name, site, logins.get(site, "")) for site in back)
        return run._replace(attempt=run.attempt.joined_by(back))

    def _begin(self, run: _Run) -> str | None:
        """Submit the next attempt; None if an admin has ended the run, or removed the last one's job."""
        last = run.attempt
        away = {site: since for site, since in last.missing.items() if site not in last.sites}
        stopped = last.job in self._told_to_end
        job = None if stopped else self._process.clone(last.job, last.sites, {MISSING: away})
        if job is None:
            attempt.write(run.store, replace(last, state=RunState.ABORTED, lost=None))
            self._process.withdraw(last.job)
            self._process.note(last.job, {GIVEN_UP: ENDED_BY_ADMIN})
            return None
        attempt.announce(run.store, ())
        _log.info("the run goes on as the job %s: %s", job, last.lost or _KILLED)
        begun = replace(last, job=job, first=last.run_id, missing=away, state=RunState.WAITING)
        attempt.write(run.store, begun)
        self._process.note(last.job, {NEXT_ATTEMPT: job})
        return job

    def _is_settled(self, run: _Run, job: str) -> bool:
        """Whether an attempt that waits no more has begun, or is the last."""
        waiting = attempt.read(run.store)
        if waiting and waiting.state is RunState.WAITING and self._process.was_withdrawn(job):
            attempt.write(run.store, replace(waiting, state=RunState.ABORTED, lost=None))  # by an admin
            return True
        if self._process.has_begun(job):
            return True
        refusals = self._process.refusals(job)
        if refusals.keys() <= set(run.attempt.joining):  # the others go on without those
            return False
        if refusals:  # sites would say the same again
            self._give_up(run, "; ".join(f"{site}: {why}" for site, why in refusals.items()))
        return bool(refusals)

    def _told(self, run: _Run, job: str) -> _Run:
        """The run after an attempt that has not begun: who follows that one is told that there is a next."""
        self._process.note(job, {LOST: run.attempt.lost or _KILLED})
        return run._replace(attempt=replace(run.attempt, job=job, first=run.attempt.run_id))

    def _go_on_without(self, missing: Collection[str], run: _Run) -> None:
        """Begin an attempt without the sites that are missing when the patience is over, if the run may."""
        last = run.attempt
        there = tuple(site for site in last.sites if site not in missing)
        why = f"not there: {', '.join(missing)}" if missing else "its next attempt cannot begin"
        why = f"{why}, after {last.patience:g} s"
        if not (missing and last.quorum):
            self._give_up(run, why)
        elif len(there) < last.quorum:
            self._give_up(run, f"{why}; {len(there)} of {last.quorum} sites that must be there to go on are")
        else:
            _log.warning("the job %s goes on without who is %s", last.job, why)
            absent = tuple(sorted({*last.absent, *missing}))
            self._next(run._replace(attempt=replace(last, sites=there, absent=absent)), None)

    def _noted(self, run: _Run, gone: Collection[str]) -> _Run:
        """The run, once it is kept and told who of its sites is missing now, and since when."""
        last = run.attempt
        before = dict(last.missing)
        now = {site: before.get(site, time.time()) for site in (*last.absent, *gone)}
        if now == before:
            return run
        last = replace(last, missing=now)
        attempt.write(run.store, last)
        self._process.note(last.job, {MISSING: now})
        return run._replace(attempt=last)

    def _missing(self, sites: Collection[str], jobs: Collection[str]) -> list[str]:
        """The sites that are not there, or where one of the run's earlier ``jobs`` has not ended."""
        if not self._told_to_end.isdisjoint(jobs):
            return []
        registered = self._process.sites()
        return sorted(site for site in sites if site not in registered or not self._is_free(site, jobs))

    def _is_free(self, site: str, jobs: Collection[str]) -> bool:
        try:
            running = json.loads(self._ask(site) or b"null")
        except (ValueError, RecursionError):
            return False
        return isinstance(running, list) and not any(job in running for job in jobs)

    def _give_up(self, run: _Run, why: str) -> None:
        attempt.write(run.store, replace(run.attempt, state=RunState.FAILED, lost=None))
        self._process.note(run.attempt.job, {GIVEN_UP: why})
