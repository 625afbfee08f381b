"""Links from site to site: blocking TLS sockets, one connection per directed edge, dialled by the sender.

An edge numbers its messages. The receiver acknowledges them now and then on the same connection, the sender
keeps what is unacknowledged, and a new connection goes on where the receiver says that the last one ended.
"""

import ssl
import time
from collections.abc import Collection, Mapping, Sequence

from flaremesh.links.frame import run_digest
from flaremesh.links.inbox import Inbox
from flaremesh.links.incoming import Incoming
from flaremesh.links.listener import Listener
from flaremesh.links.outgoing import Address, Lost, Outgoing
from flaremesh.links.protocol import FLUSH_SECONDS, MAX_MESSAGE_BYTES, Key, LinkObserver, Payload, length_of
from flaremesh.links.tls import Credentials


class DirectLink:
    """One site's end of all its direct edges.

    Args:
        site: name of this site.
        run_id: the run; connections of other runs are refused.
        sources: in-neighbours, who may dial in.
        credentials: of this site.
        observer: hears of traffic and refusals.
        inbox: where messages are put.
        lost: called once for each edge that is lost after it was made.
        listen: host and inclusive range of ports for in-neighbours to dial; None if they cannot.
        max_message_bytes: a peer that announces more is cut off.

    Raises:
        LinkError: no port is free, or the certificate cannot be used.
    """

    def __init__(
        self,
        site: str,
        run_id: str,
        sources: Collection[str],
        credentials: Credentials,
        observer: LinkObserver,
        inbox: Inbox,
        lost: Lost,
        listen: tuple[str, tuple[int, int]] | None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ):
        self._site = site
        self._run = run_digest(run_id)
        self._credentials = credentials
        self._observer = observer
        self._inbox = inbox
        self._lost = lost
        self._outgoing: dict[str, Outgoing] = {}
        self._incoming = {
            peer: Incoming(peer, self._run, observer, inbox, max_message_bytes) for peer in sources
        }
        self._listener = listen and Listener(*listen, credentials, self._run, self._welcome, observer.refused)
        self.address: Address | None = (listen[0], self._listener.port) if listen and self._listener else None

    def dial(self, addresses: Mapping[str, Address]) -> dict[str, str]:
        """Make a link to each peer; returns those that could not be reached, and why.

        Raises LinkRefused if the wrong one answered, or if the peer does not accept this site.
        """
        context = self._credentials.dialling()
        self._outgoing = {
            peer: Outgoing(self._site, peer, address, self._run, context, self._lost, self._inbox.fail)
            for peer, address in addresses.items()
        }
        causes = {peer: edge.wait() for peer, edge in self._outgoing.items()}
        return {peer: cause for peer, cause in causes.items() if cause is not None}

    def send(self, peer: str, key: Key, buffers: Sequence[Payload]) -> bool:
        """See Link.send; False if there is no link to ``peer`` any more, LinkRefused if it may not be."""
        edge = self._outgoing.get(peer)
        length = length_of(peer, key, buffers)
        if edge is None or not edge.send(key, buffers, length):
            return False
        self._observer.sent(peer, length)
        return True

    def why_gone(self, peer: str) -> str | None:
        """Why there is no link to an out-neighbour any more."""
        return self._outgoing[peer].wait()

    def attend(self, keys: Collection[Key]) -> None:
        """To be called by a thread before it waits for ``keys``; it may be quicker than the edges' own."""
        for key in keys:
            if key.sender in self._incoming:
                self._incoming[key.sender].attend(key)

    def condition(self, peer: str) -> str | None:
        """What is known of the link from an in-neighbour, in words; None where it never dialled in."""
        return self._incoming[peer].condition if peer in self._incoming else None

    def close(self, *, patience: float = FLUSH_SECONDS) -> None:
        """See Link.close."""
        if patience:
            deadline = time.monotonic() + patience
            for outgoing in self._outgoing.values():
                outgoing.flush(deadline, self._inbox.cancelled)
        if self._listener is not None:
            self._listener.close()
        for outgoing in self._outgoing.values():
            outgoing.stop()
        for outgoing in self._outgoing.values():
            outgoing.close()
        for incoming in self._incoming.values():
            incoming.close(orderly=patience > 0)

    def _welcome(self, name: str, connection: ssl.SSLSocket) -> bool:
        edge = self._incoming.get(name)
        if edge is None:
            return False
        edge.offer(connection)
        return True
