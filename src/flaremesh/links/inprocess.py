"""Links inside one process: for tests and for simulating hundreds of sites."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from typing_extensions import override

from flaremesh.links.errors import LinkClosed, LinkError
from flaremesh.links.inbox import Inbox
from flaremesh.links.link import (
    FLUSH_SECONDS,
    Cancelled,
    Key,
    Link,
    Longest,
    Payload,
    length_of,
    require_room,
)


class InProcessLink(Link):
    """One site's end; messages are handed over by reference.

    Args:
        site: name of this site.
        inboxes: inbox of every site, shared by all links of the process.
    """

    def __init__(self, site: str, inboxes: Mapping[str, Inbox]):
        self._site = site
        self._inboxes = inboxes
        self._closed = False
        self._longest: defaultdict[str, Longest] = defaultdict(Longest)

    @override
    def send(self, peer: str, key: Key, buffers: Sequence[Payload]) -> None:
        if self._closed:
            raise LinkClosed(f"{self._site} has closed its links and sends nothing to {peer}")
        if peer not in self._inboxes:
            raise LinkError(f"{self._site} has no edge to {peer}")
        length, inbox = length_of(peer, key, buffers), self._inboxes[peer]
        longest = self._longest[peer]
        require_room(peer, *inbox.waiting(self._site), longest.beside(key, length))
        longest.add(key, length)
        inbox.put(key, buffers[0] if len(buffers) == 1 else b"".join(buffers))

    @override
    def receive(self, keys: Collection[Key], timeout: float) -> dict[Key, Payload]:
        return self._inboxes[self._site].take(keys, timeout)

    @override
    def arrived(self, senders: Collection[str]) -> dict[Key, Payload]:
        return self._inboxes[self._site].take_arrived(senders)

    @override
    def lag(self, peer: str) -> int:
        return self._inboxes[peer].waiting(self._site)[0]

    @override
    def expect(self, length: int) -> None:
        """Nothing: no message comes from another process."""

    @override
    def close(self, *, patience: float = FLUSH_SECONDS) -> None:
        """As in Link; what was sent has arrived already."""
        self._closed = True
        self._inboxes[self._site].close()


def inboxes(sites: Collection[str], cancelled: Cancelled = lambda: False) -> dict[str, Inbox]:
    """An inbox for each site."""
    return {site: Inbox(cancelled) for site in sites}
