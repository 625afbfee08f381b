"""All direct edges of one site.

An edge numbers its messages. The receiver acknowledges them now and then on the same connection, the sender
keeps what is unacknowledged, and a new connection goes on where the receiver says that the last one ended.
"""

import ssl
import time
from collections.abc import Collection, Mapping
from typing import TypeAlias

from typing_extensions import override

from flaremesh.links.carrier import Address, Carrier, Edges, Lost, Message, Unable
from flaremesh.links.credentials import Credentials
from flaremesh.links.direct.dialler import Dialler
from flaremesh.links.direct.incoming import Incoming
from flaremesh.links.direct.listener import Listener
from flaremesh.links.direct.outgoing import Outgoing
from flaremesh.links.frame import run_digest
from flaremesh.links.link import FLUSH_SECONDS, Key, Refusal
from flaremesh.topology.links import LinkKind

Listen: TypeAlias = tuple[str, tuple[int, int]]
"""Host, and inclusive range of ports."""


class DirectCarrier(Carrier):
    """One site's end of all its direct edges.

    Args:
        edges: the site's edges.
        credentials: of this site.
        listen: host and inclusive range of ports for in-neighbours to dial; None if they cannot.

    Raises:
        LinkError: no port is free, or the certificate cannot be used.
    """

    kind = LinkKind.DIRECT

    def __init__(self, edges: Edges, credentials: Credentials, listen: Listen | None):
        self._edges = edges
        self._run = run_digest(edges.run_id)
        self._credentials = credentials
        self._outgoing: dict[str, Outgoing] = {}
        self._incoming = {peer: Incoming(peer, self._run, edges) for peer in edges.sources}
        self._listener: Listener | None = None
        if listen is not None:
            self._listener = Listener(*listen, credentials, self._run, self._welcome, edges.observer.refused)
            self.address = listen[0], self._listener.port

    @override
    def open(self, addresses: Mapping[str, Address], lost: Lost, timeout: float) -> Mapping[str, Unable]:
        """Dial all out-neighbours that have an address, for some seconds whatever ``timeout`` is.

        Raises:
            LinkRefused: another site answered there, or the peer does not accept this one.
        """
        context = self._credentials.dialling()
        edges = self._edges
        for peer in edges.targets & addresses.keys():
            dialler = Dialler(
                *(edges.site, peer, addresses[peer], self._run, self._credentials, context),
                edges.observer.refused,
            )
            self._outgoing[peer] = Outgoing(
                dialler,
                lost,
                edges.inbox.fail,
                edges.tolerance,
                lambda: edges.vouched,
                edges.settled.get(peer),
            )
        unable = {
            peer: Unable("it has no link address", by_design=True)
            for peer in edges.targets - addresses.keys()
        }
        for peer, edge in self._outgoing.items():
            if (cause := edge.wait()) is not None:
                unable[peer] = Unable(cause)
        return unable

    @override
    def send(self, peer: str, message: Message) -> str | None:
        edge = self._outgoing.get(peer)
        return "it has not been dialled" if edge is None else edge.send(message)

    @override
    def attend(self, keys: Collection[Key]) -> None:
        for key in keys:
            if key.sender in self._incoming:
                self._incoming[key.sender].attend(key)

    @override
    def condition(self, peer: str) -> str | None:
        return self._incoming[peer].condition if peer in self._incoming else None

    @override
    def heard(self, peer: str) -> float:
        # what a peer acknowledges says nothing of one whose own messages are refused
        edge = self._incoming.get(peer) or self._outgoing.get(peer)
        return super().heard(peer) if edge is None else edge.heard

    @override
    def healing(self, peer: str) -> float:
        ends = self._incoming.get(peer), self._outgoing.get(peer)
        return max((end.healing for end in ends if end is not None), default=super().healing(peer))

    @override
    def close(self, *, patience: float = FLUSH_SECONDS) -> None:
        if patience:
            deadline = time.monotonic() + patience
            for outgoing in self._outgoing.values():
                outgoing.flush(deadline, self._edges.inbox.cancelled)
        if self._listener is not None:
            self._listener.close()
        for outgoing in self._outgoing.values():
            outgoing.stop()
        for outgoing in self._outgoing.values():
            outgoing.close()
        for incoming in self._incoming.values():
            incoming.close(orderly=patience > 0)

    def _welcome(self, name: str, connection: ssl.SSLSocket) -> Refusal | None:
        edge = self._incoming.get(name)
        if edge is None:
            return Refusal.STRANGER
        edge.offer(connection)
        return None
