"""Links inside one process: for tests and for simulating hundreds of sites."""

from collections.abc import Collection, Mapping, Sequence

from flaremesh.links.inbox import Inbox
from flaremesh.links.protocol import FLUSH_SECONDS, Cancelled, Key, LinkError, Payload


class InProcessLink:
    """One site's end; messages are handed over by reference.

    Args:
        site: name of this site.
        inboxes: inbox of every site, shared by all links of the process.
    """

    def __init__(self, site: str, inboxes: Mapping[str, Inbox]):
        self._site = site
        self._inboxes = inboxes

    def send(self, peer: str, key: Key, buffers: Sequence[Payload]) -> None:
        """Put the message into the peer's inbox."""
        if peer not in self._inboxes:
            raise LinkError(f"{self._site} has no link to {peer}")
        self._inboxes[peer].put(key, buffers[0] if len(buffers) == 1 else b"".join(buffers))

    def receive(self, keys: Collection[Key], timeout: float) -> dict[Key, Payload]:
        """Take messages out of the own inbox."""
        return self._inboxes[self._site].take(keys, timeout)

    def close(self, *, patience: float = FLUSH_SECONDS) -> None:
        """Nothing to free."""


def inboxes(sites: Collection[str], cancelled: Cancelled = lambda: False) -> dict[str, Inbox]:
    """An inbox for each site."""
    return {site: Inbox(cancelled) for site in sites}
