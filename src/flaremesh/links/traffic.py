"""What a site exchanges with each peer, counted once for the run's result and for its metrics."""

import threading
from collections import Counter
from collections.abc import Collection

from typing_extensions import override

from flaremesh.links.link import LinkObserver, Refusal
from flaremesh.topology.links import Carried, LinkKind

_STRANGER = ""


class TrafficCounter(LinkObserver):
    """Counts what it hears of.

    Args:
        peers: the site's neighbours.

    Attributes:
        sent_messages: by peer, one per attempt.
        sent_bytes, received_bytes: payload bytes by peer.
        waits: seconds spent waiting for messages, by peer.
        refusals: how many, by peer and reason; the peer is empty where the sender is no neighbour.
        links: how the messages to each peer travel, a word of Carried.
        worse: the peers to which they travel in a worse way than if nothing were wrong.
        changes: how often the messages from a peer came to come in another way, by peer and that word.
    """

    def __init__(self, peers: Collection[str]):
        self._peers = frozenset(peers)
        self.sent_messages: Counter[str] = Counter()
        self.sent_bytes: Counter[str] = Counter()
        self.received_bytes: Counter[str] = Counter()
        self.waits: dict[str, float] = dict.fromkeys(peers, 0.0)
        self.refusals: Counter[tuple[str, str]] = Counter()
        self.links: dict[str, str] = {}
        self.worse: dict[str, bool] = {}
        self.changes: Counter[tuple[str, str]] = Counter()
        # several threads count, and an increment is not atomic
        self._counting = threading.Lock()

    @override
    def sent(self, peer: str, payload_bytes: int) -> None:
        with self._counting:
            self.sent_messages[peer] += 1
            self.sent_bytes[peer] += payload_bytes

    @override
    def received(self, peer: str, payload_bytes: int) -> None:
        with self._counting:
            self.received_bytes[peer] += payload_bytes

    @override
    def refused(self, peer: str, reason: Refusal) -> None:
        # strangers share one entry, since they choose their names: memory must not grow with them
        with self._counting:
            self.refusals[peer if peer in self._peers else _STRANGER, reason] += 1

    @override
    def waited(self, peer: str, seconds: float) -> None:
        self.waits[peer] += seconds

    @override
    def linked(self, peer: str, kind: LinkKind, wanted: LinkKind, *, is_dialled_back: bool = False) -> None:
        self.worse[peer] = kind.rank > wanted.rank
        # a plain string, since it goes into messages and files
        self.links[peer] = Carried.by(kind, is_dialled_back=is_dialled_back).value

    @override
    def changed(self, peer: str, kind: LinkKind) -> None:
        with self._counting:
            self.changes[peer, Carried.by(kind).value] += 1
