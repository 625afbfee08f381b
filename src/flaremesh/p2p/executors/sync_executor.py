"""Synchronous exchange of values with the neighbours."""

import operator
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.fl_constant import ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from flaremesh.links import Key, LinkError, Payload, PeerTimeout
from flaremesh.links.assemble import assemble
from flaremesh.links.carrier import Address
from flaremesh.links.direct import Credentials
from flaremesh.links.traffic import TrafficCounter
from flaremesh.metrics.names import RunState
from flaremesh.metrics.prometheus import PrometheusSink
from flaremesh.p2p.executors.base_dist_opt_executor import BaseDistOptExecutor
from flaremesh.p2p.executors.ported import overrides
from flaremesh.p2p.extra import ExtraError, planned_iterations, positive
from flaremesh.p2p.message import decode, encode
from flaremesh.p2p.nvflare.cells import FRAMES, PROGRESS, SERVER, RunCell, take_aux_messages
from flaremesh.p2p.nvflare.startup import startup_files
from flaremesh.p2p.outcome import SITE_RESULT, SiteResult
from flaremesh.p2p.progress import ProgressReporter
from flaremesh.p2p.types import LocalConfig, Neighbor
from flaremesh.topology.links import LinkMode
from flaremesh.topology.neighborhood import Neighborhood

DEFAULT_PEER_TIMEOUT = 60.0

_TOPIC = "send_value"  # of the stock package's messages
_NOTHING = b""  # for a neighbour that was taken off the list: no value is as short


class SyncAlgorithmExecutor(BaseDistOptExecutor):
    """Base of executors whose sites keep step: an iteration ends when every in-neighbour's value is there.

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
        self.sync_timeout = sync_timeout
        self.sync_waiter = threading.Event()
        self.lock = threading.Lock()

    @property
    def peer_timeout(self) -> float:
        """Seconds to wait for a neighbour."""
        return float(self.sync_timeout or self.config.extra.get("peer_timeout", DEFAULT_PEER_TIMEOUT))

    def _configure(self, config: LocalConfig, fl_ctx: FLContext, abort_signal: Signal) -> Address | None:
        super()._configure(config, fl_ctx, abort_signal)
        positive(config.extra, "peer_timeout", DEFAULT_PEER_TIMEOUT)
        mode = config.extra.get("links", "auto")
        if mode not in get_args(LinkMode):
            raise ExtraError(f'extra["links"] must be one of {", ".join(get_args(LinkMode))}, not {mode!r}')
        part = self._flaremesh
        run_id = fl_ctx.get_job_id()
        part.folder = Path(fl_ctx.get_workspace().get_run_dir(run_id))
        peers = {peer for hood in config.schedule for peer in (*hood.in_weights, *hood.out)}
        part.traffic = traffic = TrafficCounter(peers)
        part.metrics = PrometheusSink(
            run_id,
            self._algorithm_name(),
            config.labels.get("topology", ""),
            planned_iterations(config.extra),
            config.schedule,
            traffic,
            config.extra.get("stepsize"),
            config.labels.get("predicted_contraction"),
        )
        cell = RunCell(fl_ctx, peers)

        def cancelled() -> bool:
            return bool(abort_signal.triggered)

        part.progress = ProgressReporter(
            lambda data: cell.post(SERVER, PROGRESS, data), traffic.links, cancelled
        )
        if overrides(self, "_exchange_values"):
            # it may send by NVFlare's own messages, as the stock package does
            self._hear_requests(fl_ctx)
        credentials = _credentials(fl_ctx)
        part.simulated = credentials is None
        part.link = part.routes = assemble(
            run_id,
            config.schedule,
            mode,
            observer=traffic,
            cancelled=cancelled,
            transport=_ThroughServer(cell),
            credentials=credentials,
            listen=(config.link["host"], tuple(config.link["ports"])) if config.link else None,
        )
        return part.routes.address

    def _connect_links(self, addresses: Mapping[str, Address], timeout: float, by_value: bool) -> None:
        self._flaremesh.by_value = by_value
        self._flaremesh.start_timeout = timeout
        if self._flaremesh.routes is not None:
            self._flaremesh.routes.open(addresses, timeout)
        super()._connect_links(addresses, timeout, by_value)

    def _enter_state(self, state: RunState) -> None:
        part = self._flaremesh
        if part.metrics is not None:
            part.metrics.state(state)
        if state.ended and part.progress is not None:
            part.progress.stop()
        if state.ended and part.routes is not None:
            part.routes.close(patience=self.peer_timeout if state is RunState.FINISHED else 0)

    def _panicked(self, reason: str) -> None:
        if self._flaremesh.progress is not None:
            self._flaremesh.progress.panic(reason)

    def _site_result(self) -> dict[str, Any]:
        traffic = self._flaremesh.traffic
        outcome = SiteResult(
            iterations=self._flaremesh.exchanged,
            sent_bytes=dict(traffic.sent_bytes),
            received_bytes=dict(traffic.received_bytes),
            links=dict(traffic.links),
        )
        return {"algorithm": self._algorithm_name(), **SITE_RESULT.data(outcome)}

    def _algorithm_name(self) -> str:
        return type(self).__name__

    def _exchange_values(self, fl_ctx: FLContext, value: Any, iteration: int) -> None:
        """Send ``value`` and fill ``neighbors_values[iteration]``.

        Whoever is listed in ``neighbors`` is waited for. Out-neighbours get the value, except one that was
        taken off ``neighbors``: it is told so.

        Raises PeerTimeout that names the silent neighbours, RunAborted, LinkError for a value that cannot be
        read or is not to be had, or TypeError for one that cannot be sent.
        """
        link, part = self._flaremesh.link, self._flaremesh
        if link is None:
            raise LinkError(
                f"{self.client_name} is not linked: its execute takes the config task itself; "
                "let it call super().execute for it"
            )
        iteration, stage = self._exchange_number(iteration)
        hood = self._present_hood(iteration)
        listed = self._listed_neighbors(hood)
        if part.hands_over is None:
            part.hands_over = overrides(self, "_handle_neighbor_value")
        if part.hands_over:
            self.sync_waiter.clear()
        message = encode(self._to_message(value))
        key = Key(iteration, stage, self.client_name)
        unlisted = hood.in_weights.keys() - set(listed) if len(listed) < len(hood.in_weights) else ()
        for peer in hood.out:
            link.send(peer, key, [_NOTHING if peer in unlisted else message])
        received = link.receive([Key(iteration, stage, peer) for peer in listed], self.peer_timeout)
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
        if unlisted or part.unread:
            self._drop_unlisted(unlisted, iteration, stage)
        part.exchanged = iteration + 1
        if part.progress is not None:
            part.progress.reached(part.exchanged)
        if part.metrics is not None:
            part.metrics.reached(part.exchanged)

    def _handle_neighbor_value(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        """Take in one neighbour's value.

        Called for each in-neighbour, as soon as the values of all have come.

        Args:
            topic: "send_value".
            request: a DXO with ``value`` and ``iteration``; its peer's identity is the sender.
            fl_ctx: of the run.
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
        if not self._flaremesh.hands_over:
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
        """The iteration as a plain number, and how many exchanges it has had just before this one."""
        try:
            number = operator.index(iteration)
        except TypeError:
            raise LinkError(
                f"the iteration of _exchange_values must be a whole number, not {iteration!r}"
            ) from None
        latest, stage = self._flaremesh.latest
        self._flaremesh.latest = number, stage + 1 if number == latest else 0
        return self._flaremesh.latest

    def _present_hood(self, iteration: int) -> Neighborhood:
        """This iteration's phase; ``neighbors`` and the own weight are that phase's, too."""
        schedule, part = self.config.schedule, self._flaremesh
        hood = schedule[iteration % len(schedule)]
        if len(schedule) > 1:
            if part.shown is not None and part.shown != (self.neighbors, self._weight):
                raise LinkError(
                    f"{type(self).__name__} changes neighbors or _weight, and this graph sets them in every "
                    "iteration; choose a graph that stays"
                )
            self.neighbors = [Neighbor(peer, weight) for peer, weight in hood.in_weights.items()]
            self._weight = hood.self_weight
            part.shown = list(self.neighbors), self._weight
        return hood

    def _listed_neighbors(self, hood: Neighborhood) -> list[str]:
        """Whom ``neighbors`` names, which subclasses may change."""
        listed = [neighbor.id for neighbor in self.neighbors]
        if listed == self._flaremesh.listed and hood is self._flaremesh.hood:
            return listed
        listed = list(dict.fromkeys(listed))
        if strangers := [peer for peer in listed if peer not in hood.in_weights]:
            raise LinkError(
                f"{self.client_name} lists {strangers[0]} in neighbors, and this run's network has no edge "
                "from there; put it into the Config that the controller gets"
            )
        self._flaremesh.listed, self._flaremesh.hood = listed, hood
        return listed

    def _drop_unlisted(self, unlisted: Collection[str], iteration: int, stage: int) -> None:
        """Do away with what neighbours send who are not listed, as soon as it has come."""
        part = self._flaremesh
        assert part.link is not None, "an exchange is over"
        for peer in unlisted:
            part.unread.setdefault(peer, []).append((iteration, stage))
        for peer, unread in list(part.unread.items()):
            with suppress(PeerTimeout):
                while unread:
                    part.link.receive([Key(*unread[0], peer)], 0.0)
                    del unread[0]
                del part.unread[peer]

    def _hear_requests(self, fl_ctx: FLContext) -> None:
        """Take in values that come by ``send_aux_request``, unless this executor exchanges as others do.

        Of their senders there is no more proof than NVFlare asks for.
        """

        def handle(topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
            peer = request.get_peer_prop(ReservedKey.IDENTITY_NAME, None)
            stranger = peer not in {neighbor.id for neighbor in self.neighbors}
            if stranger or self._flaremesh.exchanged:
                return make_reply(ReturnCode.EXECUTION_EXCEPTION)
            try:
                return self._handle_neighbor_value(topic, request, fl_ctx)
            except Exception as error:
                # who waits for the value by itself would wait for ever
                self._panicked(f"cannot take in what {peer} sent: {type(error).__name__}: {error}")
                raise

        with suppress(ValueError):  # a subclass's handle_event has registered one
            take_aux_messages(fl_ctx, _TOPIC, handle)


class _ThroughServer:
    """The transport of relayed frames: messages of NVFlare's cells, which the server forwards."""

    def __init__(self, cell: RunCell):
        self._cell = cell

    def post(self, peer: str, data: bytes) -> None:
        """See Transport."""
        self._cell.post(peer, FRAMES, data)

    def listen(self, deliver: Callable[[str, Payload], None]) -> None:
        """See Transport."""
        self._cell.listen(FRAMES, deliver)


def _credentials(fl_ctx: FLContext) -> Credentials | None:
    """Those of the site's kit; NVFlare's simulator has no kits."""
    files = startup_files(Path(fl_ctx.get_workspace().get_startup_kit_dir()))
    return Credentials(files.certificate, files.key, files.root) if files.certificate.exists() else None
