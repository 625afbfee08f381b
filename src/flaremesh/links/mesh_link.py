"""The link of a run: a site's pairs, and how long they are waited for."""

import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence

from typing_extensions import override

from flaremesh.links import life
from flaremesh.links.carrier import Address, Carrier
from flaremesh.links.connector import Connector
from flaremesh.links.dialler import Dialler
from flaremesh.links.edges import Edges, Message
from flaremesh.links.errors import LinkClosed, LinkError, PeerBehind, PeerTimeout, RunAborted
from flaremesh.links.link import FLUSH_SECONDS, Key, Link, Payload, length_of
from flaremesh.links.pair import Pair
from flaremesh.links.reception import Reception
from flaremesh.topology.links import LinkKind

_log = logging.getLogger(__name__)

_GREETING = -1  # iteration, in which sites wait for each other to be up
_STRAGGLER = (
    "alive, but slow or waiting itself: run.straggler_timeout is over; see what keeps it, or raise that"
)


class MeshLink(Link):
    """One site's end of all its edges.

    Args:
        edges: the edges.
        pairs: this site's end of each pair, by neighbour.
        reception: of connections that come in.
        carriers: those that may be used, the best one first.
        dialler: of this site.
    """

    def __init__(
        self,
        edges: Edges,
        pairs: Mapping[str, Pair],
        reception: Reception,
        carriers: Sequence[Carrier],
        dialler: Dialler,
    ):
        self._edges, self._pairs, self._reception = edges, pairs, reception
        self._carriers, self._dialler = carriers, dialler
        self._inbox, self._observer = edges.inbox, edges.observer
        self._connectors: list[Connector] = []
        self._deadline = None if edges.tolerance is None else self.deadline
        self._changed = threading.Condition()
        self._closed = False

    @property
    def address(self) -> Address | None:
        """Where neighbours reach this site; None if they cannot."""
        return next((carrier.address for carrier in self._carriers if carrier.address), None)

    def open(self, addresses: Mapping[str, Address], timeout: float) -> None:
        """Wait until there is a connection with each neighbour.

        Args:
            addresses: of the sites that have one.
            timeout: seconds that it may take.

        Raises:
            LinkError: no carrier carries to a neighbour.
            LinkRefused: one end does not accept the other.
            PeerTimeout: names silent peers.
            RunAborted: while waiting for them.
        """
        deadline = time.monotonic() + timeout
        site, edges = self._edges.site, self._edges
        for carrier in self._carriers:
            carrier.open({peer: addresses[peer] for peer in self._pairs if peer in addresses})
        causes = []
        for peer, pair in sorted(self._pairs.items()):
            allowed = [carrier for carrier in self._carriers if carrier.kind in pair.carriers]
            inability = {carrier.kind: carrier.inability(peer) for carrier in allowed}
            able = [carrier for carrier in allowed if inability[carrier.kind] is None]
            if not able:
                causes.append(
                    f"with {peer}: {'; '.join(filter(None, inability.values())) or 'it makes none'}"
                )
                continue
            edges.wanted[peer] = able[0].kind
            direct = [carrier for carrier in able if carrier.kind is LinkKind.DIRECT]
            if any(carrier.head_start(peer, leads=pair.leads) is None for carrier in direct):
                edges.dialling_back.add(peer)
            pair.tell()
            self._connectors.append(Connector(site, pair, able, self._dialler, edges.tolerance))
        if causes:
            kinds = " or ".join(carrier.kind for carrier in self._carriers)
            raise LinkError(
                f"{site} has no {kinds or 'direct'} link {', '.join(causes)}; `links: auto` would relay"
            )
        for connector in self._connectors:
            connector.start()
        self._wait_for_all(deadline, timeout)

    def _wait_for_all(self, deadline: float, timeout: float) -> None:
        with self._changed:
            while missing := [peer for peer, pair in self._pairs.items() if pair.kind is None]:
                failures = [pair.failure for pair in self._pairs.values() if pair.failure is not None]
                if failures:
                    raise failures[0]
                if self._inbox.cancelled():
                    raise RunAborted("the run was aborted")
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    misled = {each.peer: each.misled for each in self._connectors if each.misled}
                    raise PeerTimeout(missing, _GREETING, timeout, misled)
                self._changed.wait(min(remaining, 0.2))

    def notice(self) -> None:
        """A pair has got a connection, or lost one."""
        with self._changed:
            self._changed.notify_all()
        for connector in self._connectors:
            connector.notice()
        for carrier in self._carriers:
            carrier.notice()

    @override
    def send(self, peer: str, key: Key, buffers: Sequence[Payload]) -> None:
        if self._closed:
            if self._inbox.cancelled():
                raise RunAborted("the run was aborted")
            raise LinkClosed(f"{self._edges.site} has closed its links and sends nothing to {peer}")
        if peer not in self._edges.targets:
            raise LinkError(f"{self._edges.site} has no edge to {peer}")
        length = length_of(peer, key, buffers)
        try:
            self._pairs[peer].send(Message(key, buffers, length))
        except PeerBehind:
            if self._inbox.cancelled():
                raise RunAborted("the run was aborted") from None
            raise
        self._observer.sent(peer, length)

    @override
    def receive(self, keys: Collection[Key], timeout: float) -> dict[Key, Payload]:
        """As in Link; a PeerTimeout also says what is known of a silent peer's link."""
        started = time.perf_counter()
        if self._inbox.longest is None:
            self.expect(self._edges.max_message_bytes)
        self._inbox.reader = threading.current_thread()
        try:
            missing = [key for key in keys if key not in self._inbox]
            for key in missing:
                if key.sender in self._pairs:
                    self._pairs[key.sender].attend(key, alone=len(missing) == 1)
            return self._inbox.take(
                keys,
                timeout,
                lambda peer, at: self._observer.waited(peer, max(0.0, at - started)),
                self._deadline,
            )
        except PeerTimeout as error:
            known = {peer: self._pairs[peer].condition for peer in error.peers if peer in self._pairs}
            conditions = {peer: condition for peer, condition in known.items() if condition}
            if self._deadline is not None:
                heard = time.monotonic() - max(timeout, life.SILENT_SECONDS)
                alive = {peer for peer in error.peers if self._pairs[peer].heard > heard}
                conditions |= dict.fromkeys(alive, _STRAGGLER)
            raise PeerTimeout(error.peers, error.iteration, error.seconds, conditions) from None

    @override
    def arrived(self, senders: Collection[str]) -> dict[Key, Payload]:
        if self._inbox.longest is None:
            self.expect(self._edges.max_message_bytes)
        return self._inbox.take_arrived(senders)

    @override
    def lag(self, peer: str) -> int:
        return self._pairs[peer].lag

    @override
    def deadline(self, peer: str, started: float, timeout: float) -> float:
        tolerance = self._edges.tolerance
        if tolerance is None:
            return started + timeout
        pair = self._pairs[peer]
        timeout = max(timeout, life.SILENT_SECONDS)  # some signs may be late
        alive = min(started + tolerance.straggler, pair.heard + timeout)
        deadline = max(started + timeout, alive, pair.healing)
        if deadline > (now := time.monotonic()):
            what = "alive" if alive >= pair.healing else "whose link is cut"
            _log.warning("%s waits for %s, %s, for %.0f s", self._edges.site, peer, what, now - started)
        return deadline

    @override
    def expect(self, length: int) -> None:
        self._inbox.expect(length)

    @override
    def close(self, *, patience: float = FLUSH_SECONDS) -> None:
        if self._closed:
            return
        self._closed = True
        pairs = self._pairs.values()
        if patience:
            deadline = time.monotonic() + patience
            for pair in pairs:
                pair.flush(deadline, self._inbox.cancelled)
        for pair in pairs:
            pair.stop(orderly=patience > 0)
        self._dialler.end()
        for connector in self._connectors:
            connector.notice()
        self._reception.close()
        for pair in pairs:
            pair.close()
        for connector in self._connectors:
            connector.close()
        for carrier in self._carriers:
            carrier.close()
        self._inbox.close()
