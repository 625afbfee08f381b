"""The names for how an edge's messages travel."""

from enum import StrEnum
from typing import Literal, TypeAlias

LinkMode: TypeAlias = Literal["auto", "direct", "met", "relay"]
"""What a run asks for: ``auto`` is, of what kits allow, direct before met before relay."""


class LinkKind(StrEnum):
    """What carries the messages of an edge."""

    DIRECT = "direct"
    MET = "met"
    RELAY = "relay"

    @property
    def rank(self) -> int:
        """0 for the best one."""
        return list(type(self)).index(self)


def kinds_of(mode: LinkMode) -> frozenset[LinkKind]:
    """What a run that asks for ``mode`` may use, where kits allow it."""
    return frozenset(LinkKind) if mode == "auto" else frozenset({LinkKind(mode)})
