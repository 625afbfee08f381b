"""Links inside one process: for tests and for simulating hundreds of sites."""

from collections.abc import Collection, Mapping, Sequence

from flaremesh.links.inbox import Inbox
from flaremesh.links.protocol import Cancelled, Key, LinkError, LinkObserver, Payload


def _never() -> bool:
    return False


class InProcessLink:
    """One site's end; ``mailboxes`` is shared by all sites of the process.

    Args:
        site: name of this site.
        mailboxes: inbox of every site.
        observer: hears of the traffic of this site.
    """

    def __init__(self, site: str, mailboxes: Mapping[str, Inbox], observer: LinkObserver):
        self._site = site
        self._mailboxes = mailboxes
        self._observer = observer

    def send(self, peer: str, key: Key, buffers: Sequence[Payload]) -> None:
        """Put the message into the peer's inbox."""
        if peer not in self._mailboxes:
            raise LinkError(f"{self._site} has no link to {peer}")
        payload = buffers[0] if len(buffers) == 1 else b"".join(buffers)
        self._observer.sent(peer, len(payload))
        self._mailboxes[peer].put(key, payload)

    def receive(self, keys: Collection[Key], timeout: float) -> dict[Key, Payload]:
        """Take messages out of the own inbox."""
        messages = self._mailboxes[self._site].take(keys, timeout)
        for key, payload in messages.items():
            self._observer.received(key.sender, len(payload))
        return messages

    def close(self) -> None:
        """Nothing to free."""


def mailboxes(sites: Collection[str], cancelled: Cancelled = _never) -> dict[str, Inbox]:
    """An inbox for each site."""
    return {site: Inbox(cancelled) for site in sites}
