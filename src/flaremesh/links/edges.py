"""A site's edges in one run: what all its pairs have in common."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from flaremesh.links.inbox import Inbox
from flaremesh.links.life import Tolerance
from flaremesh.links.link import MAX_MESSAGE_BYTES, Key, LinkObserver, Payload, Refusal
from flaremesh.topology.links import Carried, LinkKind

_log = logging.getLogger(__name__)


class Message(NamedTuple):
    """A message under way.

    Attributes:
        key: its name.
        buffers: its bytes, one buffer after the other.
        length: of all buffers, in bytes.
    """

    key: Key
    buffers: Sequence[Payload]
    length: int


@dataclass(frozen=True)
class Edges:
    """One site's directed edges in one run.

    Attributes:
        site: name of this site.
        run_id: the run; what belongs to another one is refused.
        sources: in-neighbours, whose messages are taken.
        targets: out-neighbours, to which messages are sent.
        inbox: where messages are put.
        observer: hears of traffic and refusals.
        max_message_bytes: a peer that announces more is refused.
        tolerance: of neighbours that are late; None where the run ends with its first loss.
        wanted: what would carry the messages of each neighbour if nothing were wrong.
        dialling_back: neighbours that this site cannot dial directly, and that might dial it.
    """

    site: str
    run_id: str
    sources: frozenset[str]
    targets: frozenset[str]
    inbox: Inbox
    observer: LinkObserver
    max_message_bytes: int = MAX_MESSAGE_BYTES
    tolerance: Tolerance | None = None
    wanted: dict[str, LinkKind] = field(default_factory=dict)
    dialling_back: set[str] = field(default_factory=set)

    @property
    def vouched(self) -> bool:
        """Whether neighbours are to be told that this site's run goes on."""
        reader = self.inbox.reader
        return (
            self.tolerance is not None
            and not self.inbox.cancelled()
            and (reader is None or reader.is_alive())
        )

    def refusal(self, peer: str, length: int, *, is_new: bool = True) -> Refusal | None:
        """Why no memory is taken for a message of ``peer``; see Inbox.refusal."""
        if length > self.max_message_bytes:
            return Refusal.OVERSIZED
        return self.inbox.refusal(peer, length, is_new=is_new)

    def store(self, key: Key, message: Payload) -> bool:
        """Put a message into the inbox; returns False where one with its name has come before."""
        if self.inbox.put(key, message):
            self.observer.received(key.sender, len(message))
            return True
        self.observer.refused(key.sender, Refusal.REPLAYED)
        return False

    def tell(self, peer: str, before: LinkKind | None, kind: LinkKind) -> None:
        """Say how the messages of ``peer`` travel from now on; before they did by ``before``, if at all."""
        is_dialled_back = peer in self.dialling_back
        if peer in self.targets:
            wanted = self.wanted.get(peer, kind)
            self.observer.linked(peer, kind, wanted, is_dialled_back=is_dialled_back)
        word = Carried.by(kind, is_dialled_back=is_dialled_back)
        if before is None:
            _log.info("%s -> %s: %s", self.site, peer, word)
        elif before is not kind:
            if peer in self.sources:
                self.observer.changed(peer, kind)
            if kind.rank > before.rank:
                lost = Carried.by(before)
                _log.warning("%s -> %s: the %s link is lost, from now on %s", self.site, peer, lost, word)
            else:
                _log.warning("%s -> %s: from now on %s again", self.site, peer, word)
