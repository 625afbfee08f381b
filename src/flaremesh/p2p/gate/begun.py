"""The runs that have begun at a site: each begins once, so that a signed job cannot be replayed.

A run whose order says that it waits for what it loses gets further attempts: of the same signed app, one
after the other. What the site has allowed it holds for all of them. None follows once the server has said
that it has finished everywhere. If it does not say so, a few may follow after the run has finished here,
because it may not have finished elsewhere; the site cannot tell whether that is so, and counts.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

from pydantic import AwareDatetime, BeforeValidator

from flaremesh.metrics.names import RunState
from flaremesh.p2p.gate import egress
from flaremesh.p2p.gate.audit import GATE_FOLDER, AuditLog
from flaremesh.p2p.gate.kept import KeptRecord
from flaremesh.p2p.gate.order import MOST_HOURS
from flaremesh.p2p.gate.request import Refused, RunRequest, quoted
from flaremesh.record import Schema
from flaremesh.topology.schema import OnLoss

BEGUN: Final = f"{GATE_FOLDER}/begun.json"
"""Its place in a site's workspace."""

MOST_DAYS: Final = 30
"""For so long after its first attempt a run gets further ones."""

MOST_ATTEMPTS: Final = 1000
"""So many attempts a run gets: one an hour, for longer than it may go on."""

MOST_HOURS_FINISHED: Final = 24
"""For so long after a run has finished here it gets further attempts."""

MOST_ATTEMPTS_FINISHED: Final = 3
"""So many attempts a run gets after it has finished here."""

_MOST = 10_000


@dataclass(frozen=True)
class _Run:
    """A run that has begun.

    Attributes:
        at: when its order was written.
        began: when its first attempt was let in.
        order: SHA-256 of its order.
        submitter: who signed it.
        on_loss: as in its order.
        job: NVFlare's id of the last attempt.
        attempts: how many were let in.
        finished: when the site first saw that an attempt had come to its end here; None if none has.
        after: how many attempts were let in since.
        denied: a person at the site wants no more of it.
        over: the server has said that it has finished everywhere.
    """

    at: AwareDatetime
    began: AwareDatetime
    order: str = ""
    submitter: str = ""
    on_loss: OnLoss = "fail"
    job: str = ""
    attempts: int = 1
    finished: AwareDatetime | None = None
    after: int = 0
    denied: bool = False
    over: bool = False

    def end(self, now: datetime) -> str | None:
        """Why it gets no further attempt; None if it may."""
        if self.on_loss == "fail" or self.over:
            return "this run has begun before, and a signed job is good for one run: export it again"
        if self.denied:
            return "a person at this site denied it, so it gets no further attempt"
        if self.after >= MOST_ATTEMPTS_FINISHED:
            return (
                f"this run has finished here, and {self.after} attempts have followed, so it gets no further "
                "one: export it again"
            )
        if self.finished and now - self.finished >= timedelta(hours=MOST_HOURS_FINISHED):
            return (
                f"this run finished here {MOST_HOURS_FINISHED} hours ago, so it gets no further attempt: "
                "export it again"
            )
        if self.attempts >= MOST_ATTEMPTS:
            return f"this run has had {self.attempts} attempts here, and gets no further one: export it again"
        if now - self.began >= timedelta(days=MOST_DAYS):
            return f"this run began {MOST_DAYS} days ago, so it gets no further attempt: export it again"
        return None


def _run_of_any_version(value: object) -> object:
    """Earlier versions kept when the order was written, and nothing else; or whether it had finished."""
    if isinstance(value, str):
        return {"at": value, "began": value}
    if isinstance(value, dict) and isinstance(finished := value.get("finished"), bool):
        return value | {"finished": value.get("began") if finished else None}
    return value


@dataclass(frozen=True)
class _Runs:
    runs: Mapping[str, Annotated[_Run, BeforeValidator(_run_of_any_version)]] = field(default_factory=dict)


_RECORD: Final[Schema[_Runs]] = Schema(_Runs, "the list of runs that have begun")


class Begun:
    """Remembers runs for as long as their orders could be shown again, or a further attempt could come.

    Args:
        workspace: of the site.
    """

    def __init__(self, workspace: Path):
        self._workspace = workspace
        self._record = KeptRecord(
            workspace,
            BEGUN,
            _RECORD,
            _Runs(),
            "so that nobody can tell whether this run has begun before: the site's admin may remove it",
        )

    def attempt(self, request: RunRequest, now: datetime, running: Collection[str] = ()) -> int:
        """Which attempt of its run a job would be, from 1: the first is of a run that has not begun here.

        Args:
            request: what the run asks.
            now: the time.
            running: ids of the jobs whose processes run here.

        Raises:
            Refused: the run gets no further attempt, an earlier one still runs, the job is not the run's, or
                nobody can tell.
        """
        run = self._record.read().runs.get(request.run)
        if run is None:
            return 1
        if reason := self._seen(run, now).end(now):
            raise Refused(reason)
        if run.job in running:
            raise Refused("this run has begun before, and still runs here: there is one attempt at a time")
        if run.order != request.order:
            raise Refused("another job has begun here under this run's id: export it again")
        if run.submitter != request.submitter:
            raise Refused(f"this run is of {quoted(run.submitter)}, who must have signed each attempt of it")
        return run.attempts + 1

    def add(self, request: RunRequest, now: datetime, running: Collection[str] = ()) -> int:
        """Let an attempt begin; this is known also after a restart.

        The arguments are those of `attempt`.

        Returns:
            Which attempt it is.

        Raises:
            Refused: as `attempt`.
        """
        with self._record.locked():
            attempt = self.attempt(request, now, running)
            runs = dict(self._record.read().runs)
            entry = _Run(request.at, now, request.order, request.submitter, request.on_loss, request.job)
            if earlier := runs.pop(request.run, None):
                seen = self._seen(earlier, now)
                after = seen.after + bool(seen.finished)
                entry = replace(seen, job=request.job, attempts=attempt, after=after)
            self._record.write(_Runs(_remembered(runs, now, running) | {request.run: entry}))
        return attempt

    def continued(self, request: RunRequest, running: Collection[str] = ()) -> str:
        """SHA-256 of the order of the run that this one continues; empty if none has begun here.

        Raises:
            Refused: that run is another submitter's, keeps nothing, was denied, or still runs.
        """
        run = self._record.read().runs.get(request.continues) if request.continues else None
        if run is None:
            return ""
        if run.submitter != request.submitter:
            raise Refused(f"the run that this one continues is of {quoted(run.submitter)}")
        if run.on_loss == "fail" or request.on_loss == "fail":
            raise Refused("a run that ends with its first loss continues none, and is not continued")
        if run.denied:
            raise Refused("a person at this site denied the run that this one continues")
        if run.job in running:
            raise Refused("the run that this one continues still runs here")
        return run.order

    def deny(self, run: str, by: str) -> str | None:
        """Let no further attempt of a run in, in the name of ``by``, and note that in the audit log.

        Returns:
            Who submitted it; None if no run of that id has begun here that could have a further attempt.

        Raises:
            Refused: the list of runs is damaged.
            AuditError, OSError, SignatureError: the log cannot be written; nothing is denied.
        """
        with self._record.locked():
            runs = self._record.read().runs
            if run not in runs or runs[run].on_loss == "fail":
                return None
            AuditLog(self._workspace).note("denied", run=run, by=by)  # first: no decision without its line
            self._record.write(_Runs({**runs, run: replace(runs[run], denied=True)}))
            return runs[run].submitter

    def end(self, run: str) -> None:
        """Let no further attempt of a run in, if it has begun here.

        Raises:
            Refused: the list of runs is damaged.
            OSError: it cannot be written.
        """
        with self._record.locked():
            runs = self._record.read().runs
            if run in runs and not runs[run].over:
                self._record.write(_Runs({**runs, run: replace(runs[run], over=True)}))

    def over(self, now: datetime) -> set[str]:
        """SHA-256 of the orders of the runs that get no further attempt.

        It looks into the folders of runs, and remembers what it has found: to be called before these are
        removed.

        Raises:
            Refused: nobody can tell.
        """
        with self._record.locked():
            known = self._record.read().runs
            seen = {name: self._seen(run, now) for name, run in known.items()}
            if seen != known:
                self._record.write(_Runs(seen))
        return {run.order for run in seen.values() if run.end(now)}

    def _seen(self, run: _Run, now: datetime) -> _Run:
        """With what the process of the last attempt has told meanwhile."""
        if run.on_loss == "fail" or run.finished:
            return run
        told = egress.read(self._workspace / run.job)
        return replace(run, finished=now) if told and told.state == RunState.FINISHED else run


def _remembered(runs: Mapping[str, _Run], now: datetime, running: Collection[str]) -> dict[str, _Run]:
    """Those that must be remembered, and of those that may go on as many as there is room for.

    Raises:
        Refused: there is no room for one more.
    """
    oldest = now - timedelta(hours=MOST_HOURS)
    recent = {name: run for name, run in runs.items() if run.at >= oldest}
    room = _MOST - 1 - len(recent)
    if room < 0:
        raise Refused(f"more than {_MOST} runs within {MOST_HOURS} hours")
    earlier = [
        (run.began, name)
        for name, run in runs.items()
        if name not in recent and (run.job in running or run.end(now) is None or run.denied)
    ]
    return recent | {name: runs[name] for _, name in sorted(earlier, reverse=True)[:room]}
