"""The last attempt of a run, as the server keeps it in the run's store."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from flaremesh import atomic
from flaremesh.metrics.names import RunState
from flaremesh.p2p.gate import order
from flaremesh.p2p.gate.request import Refused
from flaremesh.p2p.store import store_of
from flaremesh.record import Name, RecordError, Schema, Seconds, Text, Whole
from flaremesh.topology.schema import MOST_SITES

_FILE = "attempt.json"


@dataclass(frozen=True)
class Attempt:
    """An attempt: one NVFlare job of a run.

    Attributes:
        job: its id.
        sites: of the run.
        patience: for how long the server waits for sites that were lost.
        began_at: the iteration from whose checkpoint it began, 0 from the start.
        fruitless: how many attempts before it began there, too.
        state: where it is; it stays ``running`` if the process of the job at the server was killed.
        lost: what was lost, if the attempt ended for that; None otherwise.
    """

    job: Name
    sites: Annotated[tuple[Name, ...], Field(max_length=MOST_SITES)]
    patience: Seconds
    began_at: Whole = 0
    fruitless: Whole = 0
    state: RunState = RunState.RUNNING
    lost: Text | None = None


_RECORD: Final[Schema[Attempt]] = Schema(Attempt, "an attempt of a run")


def resumable_store(workspace: Path, app: Path) -> Path | None:
    """The store of a run that goes on after a loss; None for any other run.

    Args:
        workspace: of the participant.
        app: the folder of the run's app there.
    """
    try:
        return store_of(workspace, app) if order.read(app).on_loss == "wait" else None
    except Refused:  # in NVFlare's simulator a run needs no order
        return None


def write(store: Path, attempt: Attempt) -> None:
    """Keep it in the store in place of the one before."""
    atomic.write(store / _FILE, _RECORD.json(attempt) + "\n", durable=True)


def read(store: Path) -> Attempt | None:
    """The last attempt; None where no such thing can be read."""
    try:
        return _RECORD.read((store / _FILE).read_bytes(), store / _FILE)
    except (OSError, RecordError):
        return None
