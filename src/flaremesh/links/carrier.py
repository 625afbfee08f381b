"""The interface of a carrier, which is one way for messages to travel; `assemble` alone knows them all."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, TypeAlias

from flaremesh.links.inbox import Inbox
from flaremesh.links.life import Tolerance
from flaremesh.links.link import (
    FLUSH_SECONDS,
    MAX_MESSAGE_BYTES,
    Key,
    LinkObserver,
    Payload,
    Refusal,
)
from flaremesh.topology.links import LinkKind

_log = logging.getLogger(__name__)

Address: TypeAlias = tuple[str, int]
"""Host and port."""


class Message(NamedTuple):
    """A message under way.

    Attributes:
        key: its name.
        buffers: its bytes, one buffer after the other.
        length: of all buffers, in bytes.
        repeat: it may have arrived by another carrier before.
    """

    key: Key
    buffers: Sequence[Payload]
    length: int
    repeat: bool = False


class Unable(NamedTuple):
    """Why a carrier does not carry to a peer.

    Attributes:
        cause: in words.
        by_design: True where the mesh was provisioned without such a link, False where making it failed.
    """

    cause: str
    by_design: bool = False


Lost: TypeAlias = Callable[[str, str, Sequence[Message]], None]
"""(peer, cause, messages that it has not acknowledged, oldest first): a carrier has lost an edge."""


@dataclass(frozen=True)
class Edges:
    """One site's directed edges in one run: what all its carriers have in common.

    Attributes:
        site: name of this site.
        run_id: the run; what belongs to another one is refused.
        sources: in-neighbours, whose messages are taken.
        targets: out-neighbours, to which messages are sent.
        inbox: where messages are put.
        observer: hears of traffic and refusals.
        max_message_bytes: a peer that announces more is refused.
        tolerance: of neighbours that are late; None where the run ends with its first loss.
        connected: in-neighbours to which there is a connection, each with what ends it: while there is one,
            their messages come by no other carrier.
        arriving: by what the messages of an in-neighbour come, where one has come.
        settled: out-neighbours to which a carrier takes over from others, each with whether all that it has
            taken over has arrived: only then another one may have the edge back.
    """

    site: str
    run_id: str
    sources: frozenset[str]
    targets: frozenset[str]
    inbox: Inbox
    observer: LinkObserver
    max_message_bytes: int = MAX_MESSAGE_BYTES
    tolerance: Tolerance | None = None
    connected: dict[str, Callable[[], None]] = field(default_factory=dict)
    arriving: dict[str, LinkKind] = field(default_factory=dict)
    settled: dict[str, Callable[[], bool]] = field(default_factory=dict)

    @property
    def vouched(self) -> bool:
        """Whether neighbours are to be told that this site's run goes on."""
        reader = self.inbox.reader
        return (
            self.tolerance is not None
            and not self.inbox.cancelled()
            and (reader is None or reader.is_alive())
        )

    def refusal(self, peer: str, length: int, under_way: int = 0) -> Refusal | None:
        """Why no memory is taken for a message of ``peer``; see Inbox.refusal."""
        if length > self.max_message_bytes:
            return Refusal.OVERSIZED
        return self.inbox.refusal(peer, length, under_way)

    def store(self, kind: LinkKind, key: Key, message: Payload, *, repeat: bool) -> None:
        """Put a message into the inbox, unless one with its name has come before.

        Args:
            kind: the carrier's.
            key: the message's name.
            message: its bytes.
            repeat: its sender has changed the carrier since it sent it first.
        """
        peer = key.sender
        before = self.arriving.get(peer)
        if before is not kind:
            self.arriving[peer] = kind
            if before is not None:
                _log.warning(
                    "%s: messages of %s came by %s, from now on by %s", self.site, peer, before, kind
                )
                self.observer.changed(peer, kind)
        if self.inbox.put(key, message):
            self.observer.received(peer, len(message))
        elif not repeat:
            self.observer.refused(peer, Refusal.REPLAYED)


class Carrier(ABC):
    """Carries messages to a site's out-neighbours, and puts what its in-neighbours send into the inbox.

    A message to a peer arrives once, in spite of loss and duplicates below, unless the edge is reported lost.

    Attributes:
        kind: what the edge's metrics and logs call this carrier.
        address: where in-neighbours reach this site; None if they need not know, or cannot.
    """

    kind: ClassVar[LinkKind]
    address: Address | None = None

    @abstractmethod
    def open(self, addresses: Mapping[str, Address], lost: Lost, timeout: float) -> Mapping[str, Unable]:
        """Make ready to carry; returns the out-neighbours that this carrier cannot reach, and why.

        Args:
            addresses: of the sites that have one.
            lost: called from any thread whenever an edge that was made ready is lost: `send` takes on nothing
                more to the peer, unless the carrier has made the edge again.
            timeout: seconds that this may take.

        Raises:
            LinkError: the run must not go on; see flaremesh.links.errors.
        """

    @abstractmethod
    def send(self, peer: str, message: Message) -> str | None:
        """Take on one message and return at once; returns why if there is no link to ``peer`` now.

        Args:
            peer: an out-neighbour.
            message: kept, not copied, until the peer has acknowledged it.

        Raises:
            LinkRefused: the edge was lost because one end does not accept the other.
            PeerBehind: too much waits for the peer already.
        """

    @abstractmethod
    def close(self, *, patience: float = FLUSH_SECONDS) -> None:
        """Free all resources, after what was sent has been acknowledged or ``patience`` seconds are over."""

    def attend(self, keys: Collection[Key]) -> None:  # noqa: B027  (most carriers have nothing to do here)
        """Called by the thread that will wait for ``keys`` next: a carrier may use it to read them."""

    def condition(self, peer: str) -> str | None:
        """What is known of the link from an in-neighbour, in words; None where this carrier has none."""
        return None

    def assure(self, peer: str) -> None:  # noqa: B027  (connections do so by themselves)
        """Tell an out-neighbour from now on that this site lives."""

    def heard(self, peer: str) -> float:
        """When a neighbour last gave a sign of life, by ``time.monotonic``."""
        return -math.inf

    def healing(self, peer: str) -> float:
        """Until when an edge with ``peer`` that is cut is dialled again, by ``time.monotonic``."""
        return -math.inf
