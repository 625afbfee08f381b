"""Exchanges of a site that waits for nobody: it mixes what has come."""

import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

from typing_extensions import override

from flaremesh.algorithms import Vectors
from flaremesh.gossip import Mixture
from flaremesh.links import Key, LinkError, Payload, PeerTimeout
from flaremesh.runtime.exchanges import Exchanges
from flaremesh.topology.neighborhood import Neighborhood

_END: Final = b""
"""Says that the sender has done its iterations; other messages are not empty."""

_MOST_WAITING = 4  # messages of a neighbour; one that is sent when it is asked for finds two at most

Parts: TypeAlias = Sequence[Payload]
"""A whole message."""


class OwnPaceExchanges(Exchanges):
    """As Exchanges, but neighbours are waited for in the first iteration alone.

    A neighbour that has not taken the last message gets none. Values are averaged over the neighbours of
    which a new one has come. Shares of sums go to those neighbours to which they are sent, and what is sent
    to none stays: so the sum, with what is under way, is the same whoever is late. That takes links that lose
    nothing, and weights with which each neighbour takes what this site gives, w_ij = w_ji.

    Once a neighbour has done its iterations, the run is over for this site, too.

    Attributes:
        is_over: whether a neighbour has done its iterations.
    """

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.is_over = False
        self._sent: list[str] = []  # to whom the last message went
        self._coming: defaultdict[str, list[Payload]] = defaultdict(list)  # parts, by sender
        self._waiting: defaultdict[str, deque[Parts]] = defaultdict(deque)  # oldest first, by sender
        self._heard: dict[str, float] = {}

    def end(self, iteration: int) -> None:
        """Tell the out-neighbours that this site has done its iterations, so many."""
        hood = self._hood(iteration)
        for peer in hood.out:
            self._link.send(peer, Key(iteration, 0, hood.site), [_END])

    @override
    def _send(self, iteration: int, stage: int, vectors: Vectors) -> None:
        hood = self._hood(iteration)
        # at first all wait for all, and what was sent before the run's messages may not be said to be taken
        self._sent = [peer for peer in hood.out if not self._heard or not self._link.lag(peer)]
        for part, payloads in enumerate(self._gossips[stage].publish(vectors)):
            for peer in self._sent:
                self._link.send(peer, Key(iteration, stage, hood.site, part), payloads)

    @override
    def _mixture(self, hood: Neighborhood, iteration: int, stage: int) -> Mixture:
        parts = range(self._parts[stage])
        if not self._heard:
            for part in parts:
                for peer, payload in self._receive(hood.in_weights, Key(iteration, stage, "", part)).items():
                    self._take_in(peer, part, payload)
        for key, payload in self._link.arrived(hood.in_weights.keys()).items():
            self._take_in(key.sender, key.part, payload)
        self._require_signs(hood, iteration)
        messages = {peer: waiting.popleft() for peer, waiting in self._waiting.items() if waiting}
        weights = {peer: hood.in_weights[peer] for peer in messages}
        present = replace(hood, self_weight=1 - sum(weights.values()), in_weights=weights)
        received = ({peer: message[part] for peer, message in messages.items()} for part in parts)
        return self._gossips[stage].mix(present, received, sum(hood.in_weights[peer] for peer in self._sent))

    def _take_in(self, peer: str, part: int, payload: Payload) -> None:
        """Keep a part of a message."""
        self._heard[peer] = time.monotonic()
        if not payload:
            self.is_over = True
            return
        coming = self._coming[peer]
        if part != len(coming):
            raise LinkError(f"{peer} sent part {part + 1} of a message, and part {len(coming) + 1} is due")
        coming.append(payload)
        if len(coming) == self._parts[0]:
            self._waiting[peer].append(self._coming.pop(peer))
        if len(self._waiting[peer]) > _MOST_WAITING:
            raise LinkError(f"{peer} sends messages before its last ones are taken, which fill the memory")

    def _require_signs(self, hood: Neighborhood, iteration: int) -> None:
        """Raise PeerTimeout for neighbours of which nothing has come for so long."""
        since = time.monotonic() - self._peer_timeout
        if silent := [peer for peer in hood.in_weights if self._heard[peer] < since]:
            raise PeerTimeout(silent, iteration, self._peer_timeout)
