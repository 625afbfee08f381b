"""What left a site in a run, as the run's own process tells it: no other sees these bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from flaremesh import atomic
from flaremesh.p2p.outcome import RUN_FOLDER
from flaremesh.record import RecordError, Schema, Whole
from flaremesh.topology.schema import MOST_SITES
from flaremesh.topology.text import Unreadable
from flaremesh.topology.text import read as text_of

EGRESS: Final = "egress.json"
"""The file in the folder that a run leaves behind."""

_Name = Annotated[str, Field(max_length=64)]
_Word = Annotated[str, Field(pattern=r"^[a-z][a-z ]{0,19}$")]


@dataclass(frozen=True)
class Egress:
    """What left a site in a run.

    Attributes:
        state: how the run ended here; a finished one has sent its result to the server.
        sent_bytes: payload by out-neighbour.
        links: what carried it in the end, by out-neighbour.
        epsilon: ε that it has spent of the site's data; None without a privacy budget.
        rdp: its Rényi divergence of order α, divided by α; None without one.
    """

    state: _Word
    sent_bytes: Annotated[Mapping[_Name, Whole], Field(max_length=MOST_SITES)] = field(default_factory=dict)
    links: Annotated[Mapping[_Name, _Word], Field(max_length=MOST_SITES)] = field(default_factory=dict)
    epsilon: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    rdp: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


_RECORD: Final = Schema[Egress](Egress, "what left a site in a run")


def write(run_folder: Path, egress: Egress) -> None:
    """Leave it in a run's folder."""
    folder = run_folder / RUN_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write(folder / EGRESS, _RECORD.json(egress))


def read(run_folder: Path) -> Egress | None:
    """What a run's process has told; None if it told nothing that can be read."""
    file = run_folder / RUN_FOLDER / EGRESS
    try:
        return _RECORD.read(text_of(file, EGRESS), EGRESS)
    except (Unreadable, RecordError):
        return None
