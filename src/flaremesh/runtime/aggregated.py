"""Exchanges of a site that learns the sums of its neighbours' vectors, and no single one."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final

from torch import Tensor
from typing_extensions import override

from flaremesh.algorithms import Exchange, Vectors
from flaremesh.gossip import Mixture
from flaremesh.gossip.aggregation import Aggregation, AggregationError, aggregate_bytes
from flaremesh.links import Key, Link, send_in_time
from flaremesh.runtime.exchanges import Exchanges
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import Wire

_MAGNITUDES: Final = 1 << 14
_STEPS: Final = 1 << 13
"""Added to an exchange's number, they name its two short messages; those of until.py have greater numbers."""


class AggregatedExchanges(Exchanges):
    """As Exchanges, but before each message the neighbours agree on the grids that its entries are on.

    Args:
        secrets: what the site shares with each neighbour, and with nobody else, in this run.
        exchanges, initial, buffers, schedule, link, wire, ...: as Exchanges.

    Raises:
        AggregationError: for a neighbour the site has nobody to share masks with.
    """

    def __init__(
        self,
        secrets: Mapping[str, bytes],
        exchanges: Sequence[Exchange],
        initial: Tensor,
        buffers: Tensor | None,
        schedule: Sequence[Neighborhood],
        link: Link,
        wire: Wire,
        *args: Any,
    ):
        if len(schedule) > 1:
            raise AggregationError("secure aggregation needs a graph that does not change")
        self._only = schedule[0]
        self._aggregations = [
            Aggregation(wire, exchange.averaged, self._only, secrets, stage)
            for stage, exchange in enumerate(exchanges)
        ]
        super().__init__(exchanges, initial, buffers, schedule, link, wire, *args)
        self._expect(max((aggregate_bytes(wire, like) for like in self._likes), default=0))

    def agree(self, iteration: int, stage: int, vectors: Vectors) -> Generator[None, None, float]:
        """Agree with the neighbours how the message is written; it pauses after each message that it sends.

        Returns:
            The seconds for which they were waited for.

        Raises:
            AggregationError: an entry of the message is not finite.
            LinkError: a neighbour's answer did not come, or is none.
        """
        self._waited = 0.0
        own = self._aggregations[stage]
        self._tell(iteration, _MAGNITUDES + stage, own.magnitudes(self._message(stage, vectors)))
        yield
        magnitudes = self._receive(self._only.in_weights, Key(iteration, _MAGNITUDES + stage, ""))
        if (steps := own.steps(magnitudes)) is not None:
            self._tell(iteration, _STEPS + stage, steps)
        yield
        awaited = own.awaited
        own.heed(self._receive(awaited, Key(iteration, _STEPS + stage, "")) if awaited else {})
        return self._waited

    @override
    def publish(self, iteration: int, stage: int, vectors: Vectors) -> None:
        """Hand the message on which `agree` has agreed to the out-neighbours."""
        for part, peer, payload in self._aggregations[stage].publish(iteration):
            key = Key(iteration, stage, self._only.site, part)
            send_in_time(self._link, peer, key, [payload], self._peer_timeout)

    @override
    def _mixture(self, hood: Neighborhood, iteration: int, stage: int) -> Mixture:
        parts = range(self._parts[stage])
        received = (self._receive(hood.in_weights, Key(iteration, stage, "", part)) for part in parts)
        return self._aggregations[stage].mix(received)

    def _tell(self, iteration: int, stage: int, payload: bytes) -> None:
        """Send all neighbours, who are in-neighbours as well, a short message."""
        for peer in self._only.out:
            key = Key(iteration, stage, self._only.site)
            send_in_time(self._link, peer, key, [payload], self._peer_timeout)
