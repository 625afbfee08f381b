"""Synchronous exchange of values with the neighbours."""

import operator
import threading
from collections import defaultdict
from collections.abc import Collection
from contextlib import suppress
from functools import cached_property
from typing import Any

from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.fl_constant import ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from typing_extensions import override

from flaremesh.links import Key, LinkError, Payload, PeerTimeout, send_in_time
from flaremesh.links.carrier import Address
from flaremesh.p2p.executors.base_dist_opt_executor import BaseDistOptExecutor
from flaremesh.p2p.executors.ported import overrides
from flaremesh.p2p.message import decode, encode
from flaremesh.p2p.nvflare.cells import take_aux_messages
from flaremesh.p2p.outcome import SITE_RESULT, SiteResult
from flaremesh.p2p.types import LocalConfig, Neighbor
from flaremesh.topology.neighborhood import Neighborhood

_TOPIC = "send_value"  # of the stock package's messages
_NOTHING = b""  # sent to a neighbour that is not listed; an encoded value is never empty


class SyncAlgorithmExecutor(BaseDistOptExecutor):
    """Base of synchronous executors: an iteration ends when every in-neighbour's value is there.

    Args:
        sync_timeout: seconds to wait for the neighbours; None takes the run's ``peer_timeout``.

    Attributes:
        neighbors_values: received values by iteration and neighbour; delete an iteration after use.
        sync_waiter: set when an exchange is complete; cleared by the next one if a subclass takes in values.
        lock: held while a value is stored.
    """

    def __init__(self, sync_timeout: float | None = None) -> None:
        super().__init__()
        self.neighbors_values: defaultdict[int, dict[str, Any]] = defaultdict(dict)
        self.sync_timeout = sync_timeout  # as the stock package has it
        self.sync_waiter = threading.Event()
        self.lock = threading.Lock()

    @override
    def _configure(self, config: LocalConfig, fl_ctx: FLContext, abort_signal: Signal) -> Address | None:
        super()._configure(config, fl_ctx, abort_signal)
        if overrides(self, "_exchange_values"):
            # it may send by NVFlare's own messages, as the stock package does
            self._hear_requests(fl_ctx)
        return self._join_run(self._algorithm_name(), fl_ctx, abort_signal)

    @override
    def _site_result(self) -> dict[str, Any]:
        part = self._flaremesh
        done = part.exchanges.done
        outcome = part.outcome or (part.joined.outcome(done) if part.joined else SiteResult(done))
        return {"algorithm": self._algorithm_name(), **SITE_RESULT.data(outcome)}

    def _algorithm_name(self) -> str:
        return type(self).__name__

    @cached_property
    def _hands_over(self) -> bool:
        """Whether a subclass takes in the neighbours' values."""
        return overrides(self, "_handle_neighbor_value")

    @override
    def _exchange_values(self, fl_ctx: FLContext, value: Any, iteration: int) -> None:
        """Send ``value`` and fill ``neighbors_values[iteration]``.

        The neighbours listed in ``neighbors`` are waited for. Out-neighbours get the value, except an
        in-neighbour that a subclass has taken off ``neighbors``, which is told so.

        Raises:
            PeerTimeout: names the neighbours that sent nothing.
            PeerBehind: a neighbour takes nothing.
            RunAborted: while waiting.
            LinkError: a value cannot be read, or a neighbour has taken this site off its list.
            TypeError: ``value`` cannot be sent.
        """
        member, exchanges = self._flaremesh.member, self._flaremesh.exchanges
        iteration, stage = self._exchange_number(iteration)
        hood = self._present_hood(iteration)
        listed = self._listed_neighbors(hood)
        if self._hands_over:
            self.sync_waiter.clear()
        message = encode(self._to_message(value))
        key = Key(iteration, stage, self.client_name)
        unlisted = hood.in_weights.keys() - set(listed) if len(listed) < len(hood.in_weights) else ()
        for peer in hood.out:
            buffers = [_NOTHING if peer in unlisted else message]
            send_in_time(member.link, peer, key, buffers, self.peer_timeout)
        received = member.link.receive([Key(iteration, stage, peer) for peer in listed], self.peer_timeout)
        values = self.neighbors_values[iteration]
        for key, payload in received.items():
            self._take_in_payload(key.sender, payload, iteration, fl_ctx)
        if not self.sync_waiter.is_set():
            if missing := [peer for peer in listed if peer not in values]:
                raise LinkError(
                    f"{self.client_name}: _handle_neighbor_value of {type(self).__name__} stored no value of "
                    f"{', '.join(missing)} for iteration {iteration}"
                )
            self.sync_waiter.set()
        if unlisted or exchanges.unread:
            self._drop_unlisted(unlisted, iteration, stage)
        exchanges.done = iteration + 1
        member.reached(exchanges.done)

    @override
    def _handle_neighbor_value(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        """Take in one neighbour's value.

        Called for each in-neighbour, as soon as the values of all have come.

        Args:
            topic: "send_value".
            request: a DXO with ``value`` and ``iteration``.
            fl_ctx: context of the run, whose peer context names the sender.
        """
        sender = request.get_peer_prop(ReservedKey.IDENTITY_NAME, None)
        data = from_shareable(request).data
        iteration = data["iteration"]
        with self.lock:
            self.neighbors_values[iteration][sender] = self._from_message(data["value"])
            if len(self.neighbors_values[iteration]) >= len(self.neighbors):
                self.sync_waiter.set()
        return make_reply(ReturnCode.OK)

    def _take_in_payload(self, peer: str, payload: Payload, iteration: int, fl_ctx: FLContext) -> None:
        if not payload:
            raise LinkError(
                f"{peer} has taken {self.client_name} off its neighbors and sends it nothing; "
                f"{self.client_name} must take {peer} off its own"
            )
        try:
            value = decode(payload)
        except ValueError as error:
            raise LinkError(f"{peer} sent a value that cannot be read: {error}") from error
        if not self._hands_over:
            self.neighbors_values[iteration][peer] = self._from_message(value)
            return
        request = DXO(DataKind.WEIGHTS, data={"value": value, "iteration": iteration}).to_shareable()
        request.set_peer_props({ReservedKey.IDENTITY_NAME: peer})
        before, sender = fl_ctx.get_peer_context(), FLContext()
        sender.put(ReservedKey.IDENTITY_NAME, peer, private=False, sticky=False)
        fl_ctx.set_peer_context(sender)
        try:
            self._handle_neighbor_value(_TOPIC, request, fl_ctx)
        finally:
            fl_ctx.set_peer_context(before)

    def _exchange_number(self, iteration: Any) -> tuple[int, int]:
        """The iteration as an int, and a number that makes the two the name of no other exchange."""
        try:
            number = operator.index(iteration)
        except TypeError:
            raise LinkError(
                f"the iteration of _exchange_values must be a whole number, not {iteration!r}"
            ) from None
        exchanges = self._flaremesh.exchanges
        latest, stage = exchanges.latest
        exchanges.latest = number, stage + (number <= latest)
        return exchanges.latest

    def _present_hood(self, iteration: int) -> Neighborhood:
        """This iteration's neighbourhood; a graph that changes sets ``neighbors`` and own weight to it."""
        schedule, exchanges = self.config.schedule, self._flaremesh.exchanges
        hood = schedule[iteration % len(schedule)]
        if len(schedule) > 1:
            if exchanges.shown is not None and exchanges.shown != (self.neighbors, self._weight):
                raise LinkError(
                    f"{type(self).__name__} changes neighbors or _weight, and this graph sets them in every "
                    "iteration; choose a graph that stays"
                )
            self.neighbors = [Neighbor(peer, weight) for peer, weight in hood.in_weights.items()]
            self._weight = hood.self_weight
            exchanges.shown = list(self.neighbors), self._weight
        return hood

    def _listed_neighbors(self, hood: Neighborhood) -> list[str]:
        """The names in ``neighbors``, which a subclass may have changed."""
        listed, exchanges = [neighbor.id for neighbor in self.neighbors], self._flaremesh.exchanges
        if listed == exchanges.listed and hood is exchanges.hood:
            return listed
        listed = list(dict.fromkeys(listed))
        if strangers := [peer for peer in listed if peer not in hood.in_weights]:
            raise LinkError(
                f"{self.client_name} lists {strangers[0]} in neighbors, and this run's network has no edge "
                "from there; put it into the Config that the controller gets"
            )
        exchanges.listed, exchanges.hood = listed, hood
        return listed

    def _drop_unlisted(self, unlisted: Collection[str], iteration: int, stage: int) -> None:
        """Drop the messages of neighbours that are not listed, now or in a later call when they have come."""
        link, waiting = self._flaremesh.member.link, self._flaremesh.exchanges.unread
        for peer in unlisted:
            waiting.setdefault(peer, []).append((iteration, stage))
        for peer, unread in list(waiting.items()):
            with suppress(PeerTimeout):
                while unread:
                    link.receive([Key(*unread[0], peer)], 0.0)
                    del unread[0]
                del waiting[peer]

    def _hear_requests(self, fl_ctx: FLContext) -> None:
        """Take in values that a subclass's own `_exchange_values` sends by ``send_aux_request``.

        NVFlare does not prove the senders of such requests.
        """

        def handle(topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
            peer = request.get_peer_prop(ReservedKey.IDENTITY_NAME, None)
            stranger = peer not in {neighbor.id for neighbor in self.neighbors}
            if stranger or self._flaremesh.exchanges.done:
                return make_reply(ReturnCode.EXECUTION_EXCEPTION)
            try:
                return self._handle_neighbor_value(topic, request, fl_ctx)
            except Exception as error:
                # else a subclass that waits for the value would wait for ever
                self._panicked(f"cannot take in what {peer} sent: {type(error).__name__}: {error}")
                raise

        with suppress(ValueError):  # a subclass's handle_event has registered one
            take_aux_messages(fl_ctx, _TOPIC, handle)
