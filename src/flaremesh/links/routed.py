"""The link of a run: each edge goes by the first carrier that can, and by the next one when that is lost."""

import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial

from typing_extensions import override

from flaremesh.links import life
from flaremesh.links.carrier import Address, Carrier, Edges, Message
from flaremesh.links.errors import EdgeLost, LinkClosed, LinkError, PeerBehind, PeerTimeout, RunAborted
from flaremesh.links.link import FLUSH_SECONDS, Key, Link, Payload, length_of
from flaremesh.topology.links import LinkKind

_log = logging.getLogger(__name__)

_STRAGGLER = (
    "alive, but slow or waiting itself: run.straggler_timeout is over; see what keeps it, or raise that"
)


class RoutedLink(Link):
    """One site's end of all its edges.

    Args:
        edges: the edges.
        carriers: those that may be used, the best one first.
    """

    def __init__(self, edges: Edges, carriers: Sequence[Carrier]):
        self._edges, self._carriers = edges, carriers
        self._inbox, self._observer = edges.inbox, edges.observer
        self._routes = {peer: list(carriers) for peer in edges.targets}
        self._carrying: dict[str, Carrier] = {}  # the carrier of each edge
        self._deadline = None if edges.tolerance is None else self.deadline
        self._closed = False

    @property
    def address(self) -> Address | None:
        """Where in-neighbours reach this site; None if they cannot."""
        return next((carrier.address for carrier in self._carriers if carrier.address), None)

    def open(self, addresses: Mapping[str, Address], timeout: float) -> None:
        """Make every carrier ready, and choose one for each out-neighbour.

        Args:
            addresses: of the sites that have one.
            timeout: seconds that it may take.

        Raises:
            LinkError: no carrier carries to an out-neighbour.
            LinkRefused: one end does not accept the other; then no other carrier is tried.
            PeerTimeout: names silent peers.
            RunAborted: while waiting for them.
        """
        deadline = time.monotonic() + timeout
        site, chosen = self._edges.site, set[str]()
        wanted: dict[str, LinkKind] = {}
        causes: dict[str, str] = {}
        for carrier in self._carriers:
            unable = carrier.open(addresses, partial(self._lost, carrier), deadline - time.monotonic())
            for peer, route in self._routes.items():
                if peer not in unable or not unable[peer].by_design:
                    wanted.setdefault(peer, carrier.kind)
                if peer in unable:
                    route.remove(carrier)
                    causes[peer] = unable[peer].cause
                elif peer not in chosen:
                    chosen.add(peer)
                    self._carrying[peer] = carrier
                    reason = f" ({causes[peer]})" if peer in causes else ""
                    _log.info("%s -> %s: %s%s", site, peer, carrier.kind, reason)
                    self._observer.linked(peer, carrier.kind, wanted[peer])
                    carrier.assure(peer)
        if missing := sorted(self._routes.keys() - chosen):
            kinds = " or ".join(carrier.kind for carrier in self._carriers)
            to_whom = "; ".join(f"to {peer}: {causes.get(peer, f'{site} makes none')}" for peer in missing)
            raise LinkError(f"{site} has no {kinds or 'direct'} link {to_whom}; `links: auto` would relay")

    @override
    def send(self, peer: str, key: Key, buffers: Sequence[Payload]) -> None:
        if self._closed:
            if self._inbox.cancelled():
                raise RunAborted("the run was aborted")
            raise LinkClosed(f"{self._edges.site} has closed its links and sends nothing to {peer}")
        route = self._routes.get(peer)
        if route is None:
            raise LinkError(f"{self._edges.site} has no edge to {peer}")
        try:
            self._hand_over(peer, Message(key, buffers, length_of(peer, key, buffers)), route)
        except PeerBehind:
            if self._inbox.cancelled():
                raise RunAborted("the run was aborted") from None
            raise

    @override
    def receive(self, keys: Collection[Key], timeout: float) -> dict[Key, Payload]:
        """As in Link; a PeerTimeout also says what is known of a silent peer's link."""
        started = time.perf_counter()
        if self._inbox.longest is None:
            self.expect(self._edges.max_message_bytes)
        self._inbox.reader = threading.current_thread()
        try:
            for carrier in self._carriers:
                carrier.attend(keys)
            return self._inbox.take(
                keys,
                timeout,
                lambda peer, at: self._observer.waited(peer, max(0.0, at - started)),
                self._deadline,
            )
        except PeerTimeout as error:
            conditions = {
                peer: condition
                for carrier in reversed(self._carriers)
                for peer in error.peers
                if (condition := carrier.condition(peer))
            }
            if self._deadline is not None:
                heard = time.monotonic() - max(timeout, life.SILENT_SECONDS)
                alive = {peer for peer in error.peers if self._heard(peer) > heard}
                conditions |= dict.fromkeys(alive, _STRAGGLER)
            raise PeerTimeout(error.peers, error.iteration, error.seconds, conditions) from None

    @override
    def deadline(self, peer: str, started: float, timeout: float) -> float:
        tolerance = self._edges.tolerance
        if tolerance is None:
            return started + timeout
        timeout = max(timeout, life.SILENT_SECONDS)  # some signs may be late
        alive = min(started + tolerance.straggler, self._heard(peer) + timeout)
        healing = max(carrier.healing(peer) for carrier in self._carriers)
        deadline = max(started + timeout, alive, healing)
        if deadline > (now := time.monotonic()):
            what = "alive" if alive >= healing else "whose link is cut"
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
        deadline = time.monotonic() + patience
        for number, carrier in enumerate(self._carriers):
            # what the one before did not deliver in time has just been handed to this one
            least = FLUSH_SECONDS if number else 0.0
            carrier.close(patience=patience and max(least, deadline - time.monotonic()))
        self._inbox.close()

    def _heard(self, peer: str) -> float:
        return max(carrier.heard(peer) for carrier in self._carriers)

    def _hand_over(self, peer: str, message: Message, route: Sequence[Carrier]) -> None:
        cause: str | None = "none is left"
        for carrier in route:
            cause = carrier.send(peer, message)
            if cause is None:
                self._observer.sent(peer, message.length)
                if carrier is not self._carrying.get(peer, carrier):
                    self._note(peer, carrier)
                return
        raise self._gone(peer, cause)

    def _note(self, peer: str, carrier: Carrier) -> None:
        """Say that a carrier has an edge back; of a loss `_lost` says more."""
        route = self._routes[peer]
        if route.index(carrier) < route.index(self._carrying[peer]):
            self._carrying[peer] = carrier
            _log.warning("%s -> %s: from now on %s again", self._edges.site, peer, carrier.kind)
            self._observer.linked(peer, carrier.kind, route[0].kind)

    def _gone(self, peer: str, cause: str | None) -> EdgeLost:
        kinds = " and ".join(carrier.kind for carrier in self._carriers)
        return EdgeLost(
            f"{self._edges.site} lost its {kinds} link to {peer} and cannot make it again: {cause}"
        )

    def _lost(self, carrier: Carrier, peer: str, cause: str, untaken: Sequence[Message]) -> None:
        """Let the next carriers of the edge carry what ``carrier`` did not deliver."""
        route = self._routes[peer]
        rest = route[route.index(carrier) + 1 :]
        if not rest:
            self._inbox.fail(self._gone(peer, cause))
            return
        _log.warning(
            "%s -> %s: the %s link is lost (%s), from now on %s",
            *(self._edges.site, peer, carrier.kind, cause, rest[0].kind),
        )
        self._carrying[peer] = rest[0]
        self._observer.linked(peer, rest[0].kind, carrier.kind)
        rest[0].assure(peer)
        try:
            for message in untaken:
                self._hand_over(peer, message._replace(repeat=True), rest)
        except LinkError as error:
            self._inbox.fail(error)
