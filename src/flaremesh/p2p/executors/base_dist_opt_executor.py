"""A site's part of a run as an NVFlare executor: configuration, algorithm, outcome."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from flaremesh.errors import FlaremeshError
from flaremesh.links import PeerTimeout, RunAborted
from flaremesh.metrics.names import RunState
from flaremesh.p2p.fed_job import prepare
from flaremesh.p2p.tasks import ADDRESS, ADDRESSES, ITERATION, REASON, Task
from flaremesh.p2p.types import LocalConfig, Neighbor


class BaseDistOptExecutor(Executor, ABC):
    """Base of all executors.

    Attributes:
        id, client_name: name of the site.
        config: the site's part of the network and the run's ``extra``.
        neighbors: in-neighbours with their weights w_ij.
    """

    def __init__(self) -> None:
        super().__init__()
        self.id = ""
        self.client_name = ""
        self.config = LocalConfig(neighbors=[])
        self.neighbors: list[Neighbor] = []
        self._weight = 1.0
        self._between_tasks = False

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """Run one task of the controller; whatever goes wrong is replied with its reason, never swallowed."""
        self._between_tasks = False
        try:
            if task_name == Task.CONFIG:
                data = from_shareable(shareable).data
                if ADDRESSES in data:
                    self._connect({site: (host, port) for site, (host, port) in data[ADDRESSES].items()})
                    self._between_tasks = True
                    return make_reply(ReturnCode.OK)
                address = self._configure(LocalConfig(**data), fl_ctx, abort_signal)
                self._between_tasks = True
                return DXO(DataKind.APP_DEFINED, data={ADDRESS: address}).to_shareable()
            if task_name == Task.RUN_ALGORITHM:
                self._enter(RunState.RUNNING)
                self._pre_algorithm_run(fl_ctx, shareable, abort_signal)
                self.run_algorithm(fl_ctx, shareable, abort_signal)
                self._post_algorithm_run(fl_ctx, shareable, abort_signal)
                self._enter(RunState.FINISHED)
                return DXO(DataKind.APP_DEFINED, data=self._result()).to_shareable()
        except RunAborted:
            self._enter(RunState.ABORTED)
            return make_reply(ReturnCode.TASK_ABORTED)
        except Exception as error:  # noqa: BLE001  (user code may raise anything; the controller must hear of it)
            self._enter(RunState.FAILED)
            self.log_exception(fl_ctx, f"{task_name} failed")
            # only flaremesh's own errors are sentences that stand for themselves
            reason = str(error) if isinstance(error, FlaremeshError) else f"{type(error).__name__}: {error}"
            headers: dict[str, str | int] = {REASON: reason}
            if isinstance(error, PeerTimeout):
                headers[ITERATION] = error.iteration
            return make_reply(ReturnCode.EXECUTION_EXCEPTION, headers=headers)
        return make_reply(ReturnCode.TASK_UNKNOWN)

    def add_to_fed_job(self, job: Any, ctx: Any, **kwargs: Any) -> None:
        """Called by FedJob."""
        prepare(job)
        super().add_to_fed_job(job, ctx, **kwargs)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Learn the own name as soon as the run starts, and hear of an abort while no task could."""
        if event_type == EventType.START_RUN:
            self.id = self.client_name = fl_ctx.get_identity_name()
        elif event_type == EventType.ABORT_TASK and self._between_tasks:
            self._enter(RunState.ABORTED)

    @abstractmethod
    def run_algorithm(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        """All iterations; ``from_shareable(shareable).data`` is the run's ``extra``."""

    def _configure(
        self, config: LocalConfig, fl_ctx: FLContext, abort_signal: Signal
    ) -> tuple[str, int] | None:
        """Take the site's part of the network; returns where in-neighbours dial, None if they cannot."""
        self.config = config
        self.neighbors = config.neighbors
        self._weight = config.schedule[0].self_weight
        return None

    def _connect(self, addresses: Mapping[str, tuple[str, int]]) -> None:
        """Link the neighbours; when this returns the site is ready to run.

        Args:
            addresses: of all sites that can be dialled.
        """

    def _enter(self, state: RunState) -> None:
        """The run has come to ``state`` at this site; after the last one nothing of it is left running."""

    def _result(self) -> dict[str, Any]:
        """What the server learns of a finished run; see flaremesh.p2p.outcome.SiteOutcome."""
        return {}

    def _pre_algorithm_run(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        """Hook before the algorithm."""

    def _post_algorithm_run(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        """Hook after the algorithm."""

    @abstractmethod
    def _exchange_values(self, fl_ctx: FLContext, value: Any, iteration: int) -> None:
        """Send ``value`` to the out-neighbours and collect the in-neighbours' values."""

    def _to_message(self, x: Any) -> Any:
        """What is sent for ``x``: numbers, strings, arrays, tensors, and lists, tuples and dicts of them."""
        return x

    def _from_message(self, x: Any) -> Any:
        """The value of a received message."""
        return x
