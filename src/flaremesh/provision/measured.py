"""What was measured of a mesh's edges and machines, as a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from flaremesh.links.speed import Rate
from flaremesh.p2p.costs import Costs
from flaremesh.record import Name, RecordError, Schema, Seconds, Text, at_most
from flaremesh.topology.links import Carried
from flaremesh.topology.schema import MOST_SITES

FILE: Final = "measured.json"
"""Its name in the mesh's folder."""

VERSION: Final = 1

_MOST_BYTES = 64 << 20
_MOST_EDGES = 100 * MOST_SITES


@dataclass(frozen=True)
class MeasuredEdge:
    """A directed edge.

    Attributes:
        source: the site that sends.
        target: the site that receives.
        round_trip: seconds to the target and back, of a frame without a message.
        rate: bytes per second, while the same came the other way and no other edge of the two was in use.
        busy_rate: bytes per second, while all edges of the mesh were in use.
        link: how it travelled.
    """

    source: Name
    target: Name
    round_trip: Seconds
    rate: Rate
    busy_rate: Rate
    link: Carried = Carried.DIRECT


@dataclass(frozen=True)
class Unmeasured:
    """A directed edge of which nothing is known, and why."""

    source: Name
    target: Name
    why: Text


@dataclass(frozen=True)
class Measurement:
    """A mesh as it was at some time.

    Attributes:
        mesh: its name.
        taken: when, as ISO 8601 has it.
        edges: those that were measured.
        unmeasured: the others.
        costs: of computing at each site, as far as its agent told.
        version: of this format.
    """

    mesh: Name
    taken: Name
    edges: Annotated[Sequence[MeasuredEdge], at_most(_MOST_EDGES)]
    unmeasured: Annotated[Sequence[Unmeasured], at_most(_MOST_EDGES)]
    costs: Annotated[Mapping[Name, Costs], at_most(MOST_SITES)]
    version: Literal[1] = VERSION


_SCHEMA: Final = Schema[Measurement](Measurement, f"a measurement of version {VERSION}")


def to_json(measurement: Measurement) -> str:
    """What `read` reads."""
    return _SCHEMA.json(measurement, indent=1) + "\n"


def read(file: Path) -> Measurement:
    """The measurement in a file.

    Raises:
        RecordError: it is none; the message says what to do.
        OSError: it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return _SCHEMA.read(stream.read(_MOST_BYTES + 1), file, _MOST_BYTES)
    except RecordError as error:
        raise RecordError(f"{error} Measure anew: `flaremesh doctor --measure`.") from None
