"""The interface of a carrier, which is one way for the bytes of a pair to travel."""

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Final, TypeAlias

from flaremesh.topology.links import LinkKind

Address: TypeAlias = tuple[str, int]
"""Host and port."""

Arrival: TypeAlias = Callable[[socket.socket, LinkKind, str], None]
"""(stream, what carries it, the neighbour that it is said to come from): called from any thread."""

HEAD_START: Final = 2.0
"""Seconds that the end which leads has to dial, where both could: two connections would be one too many."""


class Carrier(ABC):
    """Makes streams of bytes between this site and its neighbours.

    It proves nothing: who is at the other end, and that nobody between has read or changed anything, is for
    the TLS session that runs over its streams.

    Attributes:
        kind: what the pair's metrics and logs call it.
        is_forwarded: whether somebody between the two passes the bytes on, and might garble them, or let
            somebody else answer.
        address: where neighbours reach this site; None if they need not know, or cannot.
    """

    kind: ClassVar[LinkKind]
    is_forwarded: ClassVar[bool] = False
    address: Address | None = None

    @abstractmethod
    def open(self, addresses: Mapping[str, Address]) -> None:
        """Learn where neighbours are; those that have no address are missing."""

    @abstractmethod
    def inability(self, peer: str) -> str | None:
        """Why neither end can dial the other; None where one can."""

    @abstractmethod
    def head_start(self, peer: str, *, leads: bool) -> float | None:
        """Seconds for which this end leaves the dialling to ``peer``; None: it never dials."""

    @abstractmethod
    def dial(self, peer: str, timeout: float) -> socket.socket:
        """A stream to ``peer``, which may prove to be somebody else; raises OSError where there is none."""

    def whereabouts(self, peer: str) -> str:
        """Where ``peer`` is dialled, to be put after its name; empty where that is no place."""
        return ""

    def notice(self) -> None:  # noqa: B027  (most carriers need no news)
        """A pair has got a connection, or lost one; called from any thread."""

    @abstractmethod
    def close(self) -> None:
        """Free all resources; the streams have been closed."""
