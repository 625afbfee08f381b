"""The names for how an edge's messages travel."""

from collections.abc import Mapping
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


class Carried(StrEnum):
    """How the messages of a directed edge travel, in the word that users read everywhere."""

    DIRECT = "direct"
    DIALLED_BACK = "dialled back"
    """Direct, over the connection that the receiver has dialled: the sender knows no address of it."""
    MET = "met"
    RELAYED = "relayed"

    @classmethod
    def by(cls, kind: LinkKind, *, is_dialled_back: bool = False) -> "Carried":
        """The word for a connection of ``kind``, which only the receiver can dial if ``is_dialled_back``."""
        if kind is LinkKind.DIRECT:
            return cls.DIALLED_BACK if is_dialled_back else cls.DIRECT
        return cls.MET if kind is LinkKind.MET else cls.RELAYED


def carried_in_words(edges: Mapping[str, int]) -> str:
    """How many edges are carried how, such as "2 direct, 1 relayed", the best way first."""
    return ", ".join(f"{count} {word}" for word in Carried if (count := edges.get(word)))


def kinds_of(mode: LinkMode) -> frozenset[LinkKind]:
    """What a run that asks for ``mode`` may use, where kits allow it."""
    return frozenset(LinkKind) if mode == "auto" else frozenset({LinkKind(mode)})
