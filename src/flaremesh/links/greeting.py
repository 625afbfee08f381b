"""How the two ends of a new connection agree to go on over it.

The end that follows says how many messages it has got. The one that leads answers that this connection counts
from now on, and how many it has got itself: so both take the same one, whoever dialled, and however many are
made at once. It numbers those that count: what it says on one may come late, after the next one counts.
"""

import socket
from collections.abc import Collection
from typing import Protocol

from flaremesh.links.frame import FrameError, Greeting, Word, pack_greeting
from flaremesh.links.link import Refusal
from flaremesh.topology.links import LinkKind


class End(Protocol):
    """This site's end of a pair, as far as a new connection concerns it.

    Attributes:
        peer: name of the neighbour.
        leads: whether this end decides which connection counts.
        carriers: by which connections may travel.
    """

    peer: str
    leads: bool
    carriers: Collection[LinkKind]

    @property
    def received(self) -> int:
        """How many messages of the peer have arrived."""

    def adopt(self, connection: socket.socket, kind: LinkKind, heard: Greeting) -> None:
        """See Pair.adopt."""


def opening(end: End, run: bytes) -> bytes:
    """What ``end`` says before it has heard anything; nothing where it leads."""
    return b"" if end.leads else pack_greeting(Greeting(Word.HELLO, end.received), run)


def agree(end: End, heard: Greeting, connection: socket.socket, kind: LinkKind) -> None:
    """Go on over ``connection``, on which the other end has said ``heard``.

    Raises:
        FrameError: that was not its turn to say, or not true.
    """
    if heard.word is not (Word.HELLO if end.leads else Word.ADOPT):
        raise FrameError(Refusal.MALFORMED)
    end.adopt(connection, kind, heard)


def refusing(reason: Refusal, run: bytes) -> bytes:
    """What is said where the connection will not count."""
    return pack_greeting(Greeting(Word.REFUSED, reason=reason.value), run)
