"""What wires cost a site's machine in computing, as its agent tells."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from pydantic import Field

from flaremesh.record import Name, RecordError, Schema, at_most

PATH: Final = "/costs"
"""Where an agent serves it."""

_SECONDS = 30.0
_MOST_WIRES = 64

Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
"""Seconds of one core per entry of a vector."""


@dataclass(frozen=True)
class Cost:
    """Of one wire, for each entry of a vector.

    Attributes:
        encode: to write it for all neighbours.
        mix: to take the step, once what came is decoded.
        decode: to read what one in-neighbour sent, and add it.
    """

    encode: Share = 0.0
    mix: Share = 0.0
    decode: Share = 0.0


Costs: TypeAlias = Annotated[Mapping[Name, Cost], at_most(_MOST_WIRES)]
"""By wire."""

COSTS: Final = Schema[Costs](Costs, "a list of what wires cost")


def measured() -> bytes:
    """What wires cost here; no wires where that cannot be found out.

    Measured in another process, as runs are: torch would stay in this one.
    """
    command = [sys.executable, "-m", "flaremesh.gossip.cost"]
    try:
        ended = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=True)
        return COSTS.json(COSTS.read(ended.stdout, "what flaremesh.gossip.cost prints")).encode()
    except (subprocess.SubprocessError, OSError, RecordError):
        return b"{}"
