"""Bytes exchanged with each peer, for a run's result."""

from collections import Counter
from collections.abc import Sequence

from flaremesh.links.protocol import LinkKind, LinkObserver, Refusal


class TrafficCounter:
    """A LinkObserver that counts, and passes on to ``others``.

    Attributes:
        sent_bytes, received_bytes: payload bytes by peer.
        refused_messages: by reason.
        links: what carries the messages to each peer.
    """

    def __init__(self, others: Sequence[LinkObserver] = ()):
        self.sent_bytes: Counter[str] = Counter()
        self.received_bytes: Counter[str] = Counter()
        self.refused_messages: Counter[str] = Counter()
        self.links: dict[str, str] = {}
        self._others = others

    def sent(self, peer: str, payload_bytes: int) -> None:
        """See LinkObserver.sent."""
        self.sent_bytes[peer] += payload_bytes
        for other in self._others:
            other.sent(peer, payload_bytes)

    def received(self, peer: str, payload_bytes: int) -> None:
        """See LinkObserver.received."""
        self.received_bytes[peer] += payload_bytes
        for other in self._others:
            other.received(peer, payload_bytes)

    def refused(self, peer: str, reason: Refusal) -> None:
        """See LinkObserver.refused."""
        self.refused_messages[reason] += 1
        for other in self._others:
            other.refused(peer, reason)

    def waited(self, peer: str, seconds: float) -> None:
        """See LinkObserver.waited."""
        for other in self._others:
            other.waited(peer, seconds)

    def linked(self, peer: str, kind: LinkKind, wanted: LinkKind) -> None:
        """See LinkObserver.linked."""
        self.links[peer] = kind.value  # plain: it goes into messages and files
        for other in self._others:
            other.linked(peer, kind, wanted)
