"""Synchronous exchange of values with the neighbours."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal

from flaremesh.links import Key, LinkError
from flaremesh.links.direct import DirectLink
from flaremesh.links.inbox import Inbox
from flaremesh.links.outgoing import Address, Lost
from flaremesh.links.relay import RelayLink
from flaremesh.links.routed import RoutedLink
from flaremesh.links.tls import Credentials
from flaremesh.links.traffic import TrafficCounter
from flaremesh.metrics.names import RunState
from flaremesh.metrics.prometheus import PrometheusSink
from flaremesh.p2p.cell import FRAMES, PROGRESS, SERVER, RunCell
from flaremesh.p2p.executors.base_dist_opt_executor import BaseDistOptExecutor
from flaremesh.p2p.message import decode, encode
from flaremesh.p2p.outcome import SiteOutcome
from flaremesh.p2p.progress import ProgressReporter
from flaremesh.p2p.types import LocalConfig

DEFAULT_PEER_TIMEOUT = 60.0


class SyncAlgorithmExecutor(BaseDistOptExecutor):
    """Base of executors whose sites keep step: an iteration ends when every in-neighbour's value is there.

    Args:
        sync_timeout: seconds to wait for the neighbours; None takes the run's ``peer_timeout``.

    Attributes:
        neighbors_values: received values by iteration and neighbour; delete an iteration after use.
    """

    def __init__(self, sync_timeout: float | None = None) -> None:
        super().__init__()
        self.neighbors_values: defaultdict[int, dict[str, Any]] = defaultdict(dict)
        self.sync_timeout = sync_timeout
        self._exchanged = 0
        self._traffic = TrafficCounter(())
        self._metrics: PrometheusSink | None = None
        self._progress: ProgressReporter | None = None
        self._link: RoutedLink | None = None

    @property
    def peer_timeout(self) -> float:
        """Seconds to wait for a neighbour."""
        return float(self.sync_timeout or self.config.extra.get("peer_timeout", DEFAULT_PEER_TIMEOUT))

    def _configure(self, config: LocalConfig, fl_ctx: FLContext, abort_signal: Signal) -> Address | None:
        super()._configure(config, fl_ctx, abort_signal)
        run_id = fl_ctx.get_job_id()
        sources = {peer for hood in config.schedule for peer in hood.in_weights}
        targets = {peer for hood in config.schedule for peer in hood.out}
        self._traffic = TrafficCounter(sources | targets)
        self._metrics = PrometheusSink(
            run_id,
            self._algorithm_name(),
            config.labels.get("topology", ""),
            int(config.extra.get("iterations", 0)),
            config.schedule,
            self._traffic,
            config.extra.get("stepsize"),
            config.labels.get("predicted_contraction"),
        )
        cell = RunCell(fl_ctx, sources | targets)
        inbox = Inbox(lambda: bool(abort_signal.triggered))
        relay = RelayLink(
            self.client_name,
            run_id,
            sources,
            targets,
            post=lambda peer, data: cell.post(peer, FRAMES, data),
            observer=self._traffic,
            inbox=inbox,
        )
        self._progress = ProgressReporter(lambda data: cell.post(SERVER, PROGRESS, data), self._traffic.links)
        cell.listen(FRAMES, relay.deliver)
        credentials = _credentials(fl_ctx)
        listen = (config.link["host"], tuple(config.link["ports"])) if config.link else None

        def direct(lost: Lost) -> DirectLink:
            assert credentials is not None, "it is not called without"
            return DirectLink(
                self.client_name, run_id, sources, credentials, self._traffic, inbox, lost, listen
            )

        self._link = RoutedLink(
            self.client_name,
            targets,
            config.extra.get("links", "auto"),
            inbox,
            self._traffic,
            relay,
            direct if credentials else None,
        )
        return self._link.address

    def _connect(self, addresses: Mapping[str, Address]) -> None:
        assert self._link is not None, "the first config task comes before the second"
        self._link.open(addresses, float(self.config.extra["start_timeout"]))

    def _enter(self, state: RunState) -> None:
        if self._metrics is not None:
            self._metrics.state(state)
        if state.ended and self._progress is not None:
            self._progress.stop()
        if state.ended and self._link is not None:
            self._link.close(patience=self.peer_timeout if state is RunState.FINISHED else 0)

    def _result(self) -> dict[str, Any]:
        outcome = SiteOutcome(
            iterations=self._exchanged,
            sent_bytes=dict(self._traffic.sent_bytes),
            received_bytes=dict(self._traffic.received_bytes),
            links=dict(self._traffic.links),
        )
        return {"algorithm": self._algorithm_name(), **asdict(outcome)}

    def _algorithm_name(self) -> str:
        return type(self).__name__

    def _exchange_values(self, fl_ctx: FLContext, value: Any, iteration: int) -> None:
        """Send ``value`` and fill ``neighbors_values[iteration]``.

        Raises PeerTimeout that names the silent neighbours, RunAborted, LinkError for a value that cannot be
        read, or TypeError for one that cannot be sent.
        """
        assert self._link is not None, "the controller configures a site before it runs"
        message = encode(self._to_message(value))
        hood = self.config.schedule[iteration % len(self.config.schedule)]
        for peer in hood.out:
            self._link.send(peer, Key(iteration, 0, self.client_name), [message])
        keys = [Key(iteration, 0, peer) for peer in hood.in_weights]
        for key, payload in self._link.receive(keys, self.peer_timeout).items():
            try:
                received = decode(payload)
            except ValueError as error:
                raise LinkError(f"{key.sender} sent a value that cannot be read: {error}") from error
            self.neighbors_values[iteration][key.sender] = self._from_message(received)
        self._exchanged = iteration + 1
        if self._progress is not None:
            self._progress.reached(self._exchanged)
        if self._metrics is not None:
            self._metrics.reached(self._exchanged)


def _credentials(fl_ctx: FLContext) -> Credentials | None:
    """Those of the site's kit; NVFlare's simulator has no kits."""
    kit = Path(fl_ctx.get_workspace().get_startup_kit_dir())
    certificate = kit / "client.crt"
    return Credentials(certificate, kit / "client.key", kit / "rootCA.pem") if certificate.exists() else None
