"""The attempts of a run: the last one, as the server keeps it in the run's store, and the one under way."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from flaremesh import atomic
from flaremesh.errors import FlaremeshError
from flaremesh.metrics.names import RunState
from flaremesh.p2p.extra import PATIENCE_SECONDS, positive, quorum_of
from flaremesh.p2p.gate import order
from flaremesh.p2p.gate.request import Refused
from flaremesh.p2p.outcome import Members, missing_of
from flaremesh.p2p.store import STORES, store_of
from flaremesh.record import Name, RecordError, Schema, Seconds, Text, Whole, at_most
from flaremesh.topology.schema import MOST_SITES

_FILE = "attempt.json"
_BACK = "back.json"
_RUN = "run"


@dataclass(frozen=True)
class Attempt:
    """An attempt: one NVFlare job of a run.

    Attributes:
        job: its id.
        sites: that take part.
        patience: for how long the server waits for sites that were lost.
        began_at: the iteration from whose checkpoint it began, 0 from the start.
        fruitless: how many attempts before it began there, too.
        state: where it is; it stays what it was if the process of the job at the server was killed.
        lost: what was lost, if the attempt ended for that; None otherwise.
        quorum: so many sites are enough to go on once the patience is over; None where all are needed.
        members: who took part in the run, by ranges of iterations.
        absent: sites of the run without which it goes on.
        joining: of ``sites``, those without which it went on before this attempt; () once they take part.
        joined_at: the iteration where sites have last joined, or tried to; 0 where none have.
        first: id of the job of the run's first attempt; empty where this is the first.
        missing: the sites that the run waits for or goes on without, and since when, Unix time.
    """

    job: Name
    sites: Annotated[tuple[Name, ...], Field(max_length=MOST_SITES)]
    patience: Seconds
    began_at: Whole = 0
    fruitless: Whole = 0
    state: RunState = RunState.RUNNING
    lost: Text | None = None
    quorum: Whole | None = None
    members: Annotated[tuple[Members, ...], Field(max_length=MOST_SITES)] = ()
    absent: Annotated[tuple[Name, ...], Field(max_length=MOST_SITES)] = ()
    joining: Annotated[tuple[Name, ...], Field(max_length=MOST_SITES)] = ()
    joined_at: Whole = 0
    first: Name = ""
    missing: Annotated[Mapping[Name, Seconds], at_most(MOST_SITES)] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """The id of the run, which is that of its first attempt's job."""
        return self.first or self.job

    @property
    def is_over(self) -> bool:
        """Whether the run gets no further attempt, unless an admin resumes it."""
        return self.state.ended and not self.lost

    @property
    def has_finished(self) -> bool:
        """Whether the run can get no further attempt."""
        return self.is_over and self.state is RunState.FINISHED

    def apart(self) -> "Attempt":
        """Without the sites that would have joined."""
        absent = tuple(sorted({*self.absent, *self.joining}))
        there = tuple(site for site in self.sites if site not in self.joining)
        return replace(self, sites=there, absent=absent, joining=())

    def continued(self, sites: Collection[str], quorum: int | None) -> "Attempt":
        """What a run of these sites, with an order of its own, has of the attempts before it."""
        before = self.members or (Members(0, self.sites),)
        joining = tuple(sorted(set(sites) - set(self.sites)))
        return replace(
            self.apart(),
            sites=tuple(sorted(sites)),
            quorum=quorum,
            state=RunState.WAITING,
            lost=None,
            members=before,
            absent=(),
            joining=joining,
            fruitless=0,
        )

    def joined_by(self, back: Collection[str]) -> "Attempt":
        """With sites that are back."""
        absent = tuple(site for site in self.absent if site not in back)
        return replace(self, sites=tuple(sorted({*self.sites, *back})), absent=absent, joining=(*back,))


@dataclass(frozen=True)
class _Back:
    sites: Annotated[tuple[Name, ...], Field(max_length=MOST_SITES)]


_RECORD: Final[Schema[Attempt]] = Schema(Attempt, "an attempt of a run")
_BACK_RECORD: Final[Schema[_Back]] = Schema(_Back, "the sites that are back")


def resumable_store(workspace: Path, app: Path) -> Path | None:
    """The store of a run that goes on after a loss; None for any other run.

    Args:
        workspace: of the participant.
        app: the folder of the run's app there.
    """
    try:
        return store_of(workspace, app) if order.read(app).on_loss != "fail" else None
    except Refused:  # in NVFlare's simulator a run needs no order
        return None


def write(store: Path, attempt: Attempt) -> None:
    """Keep it in the store in place of the one before."""
    atomic.write(store / _FILE, _RECORD.json(attempt) + "\n", durable=True)


def note_run(store: Path, run: str) -> None:
    """Keep the id of the run whose store it is."""
    atomic.write(store / _RUN, run)


def run_of(store: Path) -> str:
    """The id of the run whose store it is; raises OSError if that is not kept there."""
    return (store / _RUN).read_text()


def store_of_run(workspace: Path, run: str) -> Path | None:
    """The store of a run at the server; None if it is not there any more."""
    for kept in (workspace / STORES).glob(f"*/{_RUN}"):
        with suppress(OSError):
            if run_of(kept.parent) == run:
                return kept.parent
    return None


def announce(store: Path, back: Collection[str]) -> None:
    """Tell the attempt under way which sites are back that it goes on without; () takes that back."""
    if back:
        atomic.write(store / _BACK, _BACK_RECORD.json(_Back(tuple(back))) + "\n")
    else:
        (store / _BACK).unlink(missing_ok=True)


def read(store: Path) -> Attempt | None:
    """The last attempt; None where no such thing can be read."""
    try:
        return _RECORD.read((store / _FILE).read_bytes(), store / _FILE)
    except (OSError, RecordError):
        return None


def _with(before: tuple[Members, ...], now: Members) -> tuple[Members, ...]:
    """Who took part so far; what others did in later iterations is gone."""
    kept = tuple(members for members in before if members.since < now.since)
    return kept if kept and kept[-1].sites == now.sites else (*kept, now)


class NothingLeft(FlaremeshError):
    """A run that a person has resumed would begin anew, because sites have lost their checkpoints."""


class CurrentAttempt:
    """This attempt of a run; where the run ends with its first loss, nothing is kept.

    Args:
        store: of the run; None where it ends with its first loss.
        begun: the attempt as it begins.

    Attributes:
        is_further: there was an attempt of the run before this one.
    """

    def __init__(self, store: Path | None, begun: Attempt):
        self._store = store
        before = read(store) if store else None
        self.is_further = before is not None
        self._resumed = before is not None and before.job != begun.job  # the server's own bear its name
        if before and before.state.ended and self._resumed:
            before = replace(before.apart(), fruitless=-1)
        if before:  # fruitless until it begins elsewhere; a vain try to join is not the others'
            begun = replace(
                begun,
                sites=before.sites,
                began_at=before.began_at,
                fruitless=before.fruitless + (not before.joining),
                members=before.members,
                first=before.run_id,
                missing=before.missing,
                absent=before.absent,
                joining=before.joining,
                joined_at=before.joined_at,
            )
        self._attempt = begun
        self._keep()

    @classmethod
    def begin(
        cls, store: Path | None, job: str, sites: Collection[str], extra: Mapping[str, Any]
    ) -> "CurrentAttempt":
        """The attempt that a job makes at a run of these sites.

        Raises:
            ExtraError: ``extra["patience"]`` is no time, in a run that goes on after a loss; or
                ``extra["quorum"]`` no number of sites, in one that goes on without some.
        """
        patience = positive(extra if store else {}, "patience", PATIENCE_SECONDS)
        quorum = quorum_of(extra, len(sites)) if store else None
        there = tuple(sorted(sites))
        return cls(store, Attempt(job, there, patience, state=RunState.CONFIGURING, quorum=quorum))

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self._attempt.run_id

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that take part, sorted."""
        return self._attempt.sites

    @property
    def members(self) -> tuple[Members, ...]:
        """Who took part in the run so far, by ranges of iterations; empty where it needs all to go on."""
        return self._attempt.members

    @property
    def missing(self) -> dict[str, int]:
        """The sites that take part no more, and since which iteration."""
        return missing_of(self._attempt.members)

    @property
    def joining(self) -> tuple[str, ...]:
        """The sites that join with this attempt, until all are prepared."""
        return self._attempt.joining

    @property
    def repairs(self) -> bool:
        """Whether sites join where it begins, or have in an attempt that was lost since."""
        return 0 < self._attempt.joined_at == self._attempt.began_at

    @property
    def back(self) -> tuple[str, ...]:
        """The sites that are back, and would join at a checkpoint with which this attempt ends."""
        if self._store is None:
            return ()
        try:
            back = _BACK_RECORD.read((self._store / _BACK).read_bytes(), self._store / _BACK).sites
        except (OSError, RecordError):
            return ()
        return tuple(site for site in back if site in self._attempt.absent)

    def prepared(self) -> None:
        """All sites are about to iterate: who joins is one of them from now on."""
        self._attempt = replace(self._attempt, state=RunState.RUNNING, joining=())
        self._keep()

    @property
    def goes_on(self) -> bool:
        """Whether the run goes on in another attempt after a loss."""
        return self._store is not None

    def begin_at(self, checkpoints: Mapping[str, tuple[int, ...]]) -> int | None:
        """The newest iteration of which all sites have a checkpoint; None without any.

        Raises:
            NothingLeft: a person has resumed the run, and only some have one.

        Args:
            checkpoints: the iterations of which each site has one; what one that joins has does not count.
        """
        stay = {site: set(iterations) for site, iterations in checkpoints.items() if site not in self.joining}
        have = stay.values()
        newest = max(set().union(*have).intersection(*have), default=0)
        if self._resumed and not newest and any(have):
            without = sorted(site for site, iterations in stay.items() if not iterations)
            raise NothingLeft(
                f"the run cannot be resumed: {', '.join(without) or 'the sites'} "
                f"{'has' if len(without) == 1 else 'have'} no checkpoint of an iteration of which the others "
                "have one; `flaremesh run` runs it anew"
            )
        begun = self._attempt
        if begun.joining:
            begun = replace(begun, joined_at=newest)
        if newest != begun.began_at:
            begun = replace(begun, began_at=newest, fruitless=0)
        if begun.quorum or begun.members:
            begun = replace(begun, members=_with(begun.members, Members(newest, begun.sites)))
        if begun != self._attempt:
            self._attempt = begun
            self._keep()
        return newest or None

    def end(self, state: RunState, lost: str | None) -> bool:
        """Note how it ended, and what was lost if it was for that; returns whether the run goes on."""
        self._attempt = replace(self._attempt, state=state, lost=lost)
        self._keep()
        return bool(self._store and lost)

    def _keep(self) -> None:
        if self._store:
            write(self._store, self._attempt)
