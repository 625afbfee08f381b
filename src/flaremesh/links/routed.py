"""The link of a run: direct where it can be, through the server where it cannot, per edge and direction."""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from flaremesh.links.direct import DirectLink
from flaremesh.links.inbox import Inbox
from flaremesh.links.outgoing import Address, Lost, Unsent
from flaremesh.links.protocol import (
    FLUSH_SECONDS,
    Key,
    LinkError,
    LinkObserver,
    Payload,
    PeerTimeout,
)
from flaremesh.links.relay import RelayLink
from flaremesh.topology.links import LinkKind, LinkMode

_log = logging.getLogger(__name__)


class RoutedLink:
    """One site's end of all its edges.

    Args:
        site: name of this site.
        targets: out-neighbours.
        mode: ``direct`` fails where ``auto`` would relay; ``relay`` needs no direct link.
        inbox: where both links put messages.
        observer: hears which link carries an edge.
        relay: carries what the direct link cannot.
        direct: makes the direct link, given who hears of lost edges; None where this site cannot have one.

    Raises:
        LinkError: what making the direct link raises.
    """

    def __init__(
        self,
        site: str,
        targets: Collection[str],
        mode: LinkMode,
        inbox: Inbox,
        observer: LinkObserver,
        relay: RelayLink,
        direct: Callable[[Lost], DirectLink] | None,
    ):
        self._site, self._targets, self._mode = site, targets, mode
        self._inbox, self._observer, self._relay = inbox, observer, relay
        self._direct = direct(self._fall_back) if direct and mode != "relay" else None

    @property
    def address(self) -> Address | None:
        """Where in-neighbours may dial."""
        return self._direct.address if self._direct else None

    def open(self, addresses: Mapping[str, Address], timeout: float) -> None:
        """Link every out-neighbour and exchange greetings, so that no later message is early.

        Raises LinkError where a direct link is missing in mode ``direct``, or refused in any mode;
        PeerTimeout naming silent peers; RunAborted.
        """
        started = time.monotonic()
        causes = {peer: "it has no link address" for peer in self._targets if peer not in addresses}
        if self._direct is None:
            causes = dict.fromkeys(self._targets, f"{self._site} makes none")
        else:
            known = {peer: addresses[peer] for peer in self._targets if peer in addresses}
            causes |= self._direct.dial(known)
        if causes and self._mode == "direct":
            missing = "; ".join(f"to {peer}: {cause}" for peer, cause in sorted(causes.items()))
            raise LinkError(f"{self._site} has no direct link {missing}; `links: auto` would relay")
        for peer in self._targets:
            kind = LinkKind.RELAY if peer in causes else LinkKind.DIRECT
            _log.info(
                "%s -> %s: %s%s", self._site, peer, kind, f" ({causes[peer]})" if peer in causes else ""
            )
            can = self._mode != "relay" and peer in addresses
            self._observer.linked(peer, kind, LinkKind.DIRECT if can else LinkKind.RELAY)
        self._relay.open(timeout - (time.monotonic() - started))

    def send(self, peer: str, key: Key, buffers: Sequence[Payload]) -> None:
        """See Link.send; in mode ``direct``, LinkError where the direct link is gone."""
        if self._direct is not None and self._direct.send(peer, key, buffers):
            return
        if self._mode == "direct":
            raise self._gone(peer, self._direct.why_gone(peer) if self._direct else None)
        self._relay.send(peer, key, buffers)

    def receive(self, keys: Collection[Key], timeout: float) -> dict[Key, Payload]:
        """See Link.receive; a PeerTimeout says whether a silent peer's direct link is up."""
        started = time.perf_counter()
        try:
            if self._direct:
                self._direct.attend(keys)
            return self._inbox.take(keys, timeout, lambda peer, at: self._waited(peer, at - started))
        except PeerTimeout as error:
            if self._direct is None:
                raise
            conditions = {peer: c for peer in error.peers if (c := self._direct.condition(peer))}
            raise PeerTimeout(error.peers, error.iteration, error.seconds, conditions) from None

    def close(self, *, patience: float = FLUSH_SECONDS) -> None:
        """See Link.close."""
        deadline = time.monotonic() + patience
        if self._direct:
            self._direct.close(patience=patience)
        self._relay.close(patience=patience and max(FLUSH_SECONDS, deadline - time.monotonic()))

    def _waited(self, peer: str, seconds: float) -> None:
        self._observer.waited(peer, max(0.0, seconds))

    def _gone(self, peer: str, cause: str | None) -> LinkError:
        return LinkError(f"{self._site} lost its direct link to {peer} and cannot make it again: {cause}")

    def _fall_back(self, peer: str, cause: str, unsent: Unsent) -> None:
        if self._mode == "direct":
            self._inbox.fail(self._gone(peer, cause))
            return
        _log.warning("%s -> %s: the direct link is lost (%s), the server relays", self._site, peer, cause)
        self._observer.linked(peer, LinkKind.RELAY, LinkKind.DIRECT)
        for key, buffers in unsent:
            self._relay.send(peer, key, buffers, repeat=True)
