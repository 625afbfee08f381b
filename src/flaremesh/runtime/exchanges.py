"""The exchanges of a site's iterations: what is sent to the neighbours, and mixed with what they send."""

import time
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from flaremesh.algorithms import Exchange, Vectors
from flaremesh.gossip import Gossip, Mixture, message_bytes, spans
from flaremesh.links import Key, Link, Payload, send_in_time
from flaremesh.runtime.buffers import MixedBuffers
from flaremesh.runtime.tree import Tree
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import Mixing, Wire


class Exchanges:
    """Each exchange has public copies of its own; the model's buffers travel with the first one.

    Args:
        exchanges: those of an iteration.
        initial: the initial point (d,).
        buffers: of the model, (b,); None for none that are mixed.
        schedule: the site's neighbourhood of each phase; iteration k uses phase k mod len(schedule).
        link: the site's links.
        wire: how vectors travel.
        peer_timeout: seconds to wait for a neighbour.
        mixing: what becomes of the neighbours' vectors.

    Raises:
        GossipError: the wire does not fit the schedule.
    """

    def __init__(
        self,
        exchanges: Sequence[Exchange],
        initial: Tensor,
        buffers: Tensor | None,
        schedule: Sequence[Neighborhood],
        link: Link,
        wire: Wire,
        peer_timeout: float,
        mixing: Mixing,
    ):
        self._schedule = schedule
        self._link = link
        self._peer_timeout = peer_timeout
        self._buffers = None if buffers is None else MixedBuffers(buffers)
        self._gossips: list[Gossip] = []
        self._parts: list[int] = []  # of the message of each exchange
        self._likes: list[list[Tensor]] = []  # vectors as each exchange has them, without memory
        lengths = []
        for stage, exchange in enumerate(exchanges):
            like = [initial.new_empty(length, device="meta") for length in exchange.lengths(initial.numel())]
            if with_buffers := buffers is not None and stage == 0:
                like.append(buffers.to("meta"))
            shape = (exchange.averaged, exchange.sums)
            self._gossips.append(Gossip(wire, len(schedule), with_buffers, *shape, mixing.clip))
            self._likes.append(like)
            self._parts.append(len(spans(like)))
            lengths.append(message_bytes(wire, like, exact_last=with_buffers))
        self._expect(max(lengths, default=0))

    def publish(self, iteration: int, stage: int, vectors: Vectors) -> None:
        """Hand a message to the out-neighbours."""
        self._send(iteration, stage, self._message(stage, vectors))

    def mix(self, iteration: int, stage: int) -> tuple[Mixture, float]:
        """Mix the in-neighbours' messages, as they come, with the one that was published.

        Buffers go to the model.

        Returns:
            The mixture, and the seconds for which the neighbours were waited for.
        """
        self._waited = 0.0
        hood = self._hood(iteration)
        mixture = self._mixture(hood, iteration, stage)
        if self._buffers is not None and stage == 0:
            self._buffers.mix(mixture.vectors[-1], hood)
            mixture = mixture._replace(vectors=mixture.vectors[:-1])
        return mixture, self._waited

    def snapshot(self) -> dict[str, Tree]:
        """Copies of what is kept between iterations."""
        return {
            "gossip": [gossip.snapshot() for gossip in self._gossips],
            "buffers": self._buffers.snapshot() if self._buffers else None,
        }

    def restore(self, snapshot: Mapping[str, Tree], initial: Tensor, *, repair: bool = False) -> None:
        """Go on from a snapshot, before anything is published.

        Args:
            snapshot: what to go on from.
            initial: the initial point (d,).
            repair: sites have left or joined. Then all public copies start anew, at both ends of each edge.

        Raises:
            ValueError, RuntimeError, KeyError, TypeError: it does not fit.
        """
        kept = [[] for _ in self._gossips] if repair else snapshot["gossip"]
        for gossip, like, copies in zip(self._gossips, self._likes, kept, strict=True):
            gossip.restore([initial.new_empty(v.shape, dtype=v.dtype) for v in like], copies)
        if self._buffers:
            self._buffers.restore(snapshot["buffers"])

    def _expect(self, length: int) -> None:
        self._link.expect(length)  # the neighbours' messages are as long as the own ones

    def _message(self, stage: int, vectors: Vectors) -> Vectors:
        """The vectors, and with the first exchange the buffers."""
        if self._buffers is None or stage != 0:
            return vectors
        return (*vectors, self._buffers.message())

    def _send(self, iteration: int, stage: int, vectors: Vectors) -> None:
        hood = self._hood(iteration)
        for part, payloads in enumerate(self._gossips[stage].publish(vectors)):
            key = Key(iteration, stage, hood.site, part)
            for peer in hood.out:
                send_in_time(self._link, peer, key, payloads, self._peer_timeout)

    def _mixture(self, hood: Neighborhood, iteration: int, stage: int) -> Mixture:
        parts = range(self._parts[stage])
        received = (self._receive(hood.in_weights, Key(iteration, stage, "", part)) for part in parts)
        return self._gossips[stage].mix(hood, received)

    def _receive(self, peers: Iterable[str], key: Key) -> dict[str, Payload]:
        """Wait for a part of the messages of these in-neighbours."""
        started = time.perf_counter()
        keys = [key._replace(sender=peer) for peer in peers]
        received = self._link.receive(keys, self._peer_timeout)
        self._waited += time.perf_counter() - started
        return {key.sender: payload for key, payload in received.items()}

    def _hood(self, iteration: int) -> Neighborhood:
        return self._schedule[iteration % len(self._schedule)]
