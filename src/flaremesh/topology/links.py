"""The names for how an edge's messages travel."""

from enum import StrEnum
from typing import Final, Literal, TypeAlias

LinkMode: TypeAlias = Literal["auto", "relay", "direct"]
"""What a run asks for: ``auto`` is direct where one end can reach the other, else relay."""


class LinkKind(StrEnum):
    """What carries the messages of an edge."""

    DIRECT = "direct"
    MET = "met"
    RELAY = "relay"

    @property
    def rank(self) -> int:
        """0 for the best one."""
        return list(type(self)).index(self)


AUTO: Final = (LinkKind.DIRECT, LinkKind.RELAY)
"""What ``auto`` asks of kits and policies; a meeting point is not among it as long as kits name none."""
