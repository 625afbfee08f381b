"""A site's part of a run as an NVFlare executor: it answers the controller's tasks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from typing_extensions import override

from flaremesh.errors import FlaremeshError
from flaremesh.links import EdgeLost, PeerBehind, PeerTimeout, RunAborted
from flaremesh.links.carrier import Address
from flaremesh.metrics.names import RunState
from flaremesh.p2p.executors.assignment import links_of, part_of, preparation_of
from flaremesh.p2p.executors.member import Member, count_malformed
from flaremesh.p2p.executors.part import START_SECONDS, Part
from flaremesh.p2p.executors.ported import require_free_names
from flaremesh.p2p.extra import positive
from flaremesh.p2p.fed_job import prepare
from flaremesh.p2p.nvflare.jobs import SITE_PARAMETERS
from flaremesh.p2p.tasks import (
    ADDRESS,
    ADDRESSES,
    BY_VALUE,
    CHECKPOINTS,
    ITERATION,
    LOST,
    PREPARE,
    REASON,
    START_TIMEOUT,
    Task,
)
from flaremesh.p2p.types import LocalConfig, Neighbor, Network, Node
from flaremesh.record import RecordError

DEFAULT_PEER_TIMEOUT = 60.0

T = TypeVar("T")


class RunExecutor(Executor, ABC):
    """Base of all executors: three steps of configuration, the run, its outcome.

    Args:
        sync_timeout: seconds to wait for the neighbours; None takes the run's ``peer_timeout``.

    Attributes:
        client_name: name of the site.
        config: the site's part of the network and the run's ``extra``.
    """

    _by_value_unasked: ClassVar[bool] = False  # under a controller that never asks which sites want values

    def __init__(self, sync_timeout: float | None = None) -> None:
        super().__init__()
        self.client_name = ""
        self.config = LocalConfig(neighbors=[])
        self.sync_timeout = sync_timeout
        self._flaremesh = Part()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__module__.startswith("flaremesh."):
            require_free_names(vars(cls), cls)

    @property
    def peer_timeout(self) -> float:
        """Seconds to wait for a neighbour."""
        return float(self.sync_timeout or self.config.extra.get("peer_timeout", DEFAULT_PEER_TIMEOUT))

    @override
    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """Run one task of the controller; whatever goes wrong is replied with its reason, never swallowed."""
        part = self._flaremesh
        part.idle = False
        part.context = fl_ctx
        try:
            if task_name == Task.CONFIG:
                reply = self._take_step(from_shareable(shareable).data, fl_ctx, abort_signal)
                part.idle = True
                return reply
            if task_name == Task.RUN_ALGORITHM:
                self.config.extra = self.config.extra or dict(from_shareable(shareable).data)
                if not part.linked:
                    timeout = positive(self.config.extra, START_TIMEOUT, START_SECONDS)
                    self._connect_links({}, timeout, self._by_value_unasked)
                if not part.prepared:
                    self._prepare_run(fl_ctx, shareable, abort_signal)
                self._enter_state(RunState.RUNNING)
                self._perform_run(fl_ctx, shareable, abort_signal)
                self._enter_state(RunState.FINISHED)
                return DXO(DataKind.APP_DEFINED, data=self._site_result()).to_shareable()
        except RunAborted:
            self._enter_state(RunState.ABORTED)
            return make_reply(ReturnCode.TASK_ABORTED)
        # the controller must hear of it, even where user code leaves by sys.exit
        except (Exception, SystemExit) as error:  # noqa: BLE001  (user code may raise anything)
            self._enter_state(RunState.FAILED)
            self.log_exception(fl_ctx, f"{task_name} failed")
            # only the messages of flaremesh's own errors are understood without their type
            reason = str(error) if isinstance(error, FlaremeshError) else f"{type(error).__name__}: {error}"
            headers: dict[str, str | int | bool] = {REASON: reason}
            if isinstance(error, PeerTimeout):
                headers[ITERATION] = error.iteration
            if isinstance(error, PeerTimeout | PeerBehind | EdgeLost):
                headers[LOST] = True
            return make_reply(ReturnCode.EXECUTION_EXCEPTION, headers=headers)
        self.log_warning(fl_ctx, f"Unknown task name: {task_name}")
        return make_reply(ReturnCode.TASK_UNKNOWN)

    def add_to_fed_job(self, job: Any, ctx: Any, **kwargs: Any) -> None:
        """Called by FedJob."""
        prepare(job, self)
        job.add_params(SITE_PARAMETERS, ctx)
        super().add_to_fed_job(job, ctx, **kwargs)

    @override
    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Learn the own name as soon as the run starts, and hear of an abort while no task could."""
        if event_type == EventType.START_RUN:
            self._learn_name(fl_ctx)
        elif event_type == EventType.ABORT_TASK and self._flaremesh.idle:
            self._enter_state(RunState.ABORTED)
        elif event_type == EventType.FATAL_SYSTEM_ERROR:
            self._panicked(str(fl_ctx.get_prop(FLContextKey.EVENT_DATA, "")))

    @abstractmethod
    def run_algorithm(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        """All iterations; ``from_shareable(shareable).data`` is the run's ``extra``."""

    def _perform_run(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        """Do the task `RUN_ALGORITHM`."""
        self.run_algorithm(fl_ctx, shareable, abort_signal)

    def _learn_name(self, fl_ctx: FLContext) -> None:
        self.client_name = fl_ctx.get_identity_name() or self.client_name

    def _take_step(self, data: Mapping[str, Any], fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """One of the three steps of the configuration; see flaremesh.p2p.tasks."""
        if not isinstance(data, Mapping):
            raise RecordError(f"what the server sent {self.client_name} is no step of its configuration.")
        if PREPARE in data:
            self._flaremesh.preparation = self._told(lambda: preparation_of(data, self.client_name), fl_ctx)
            if self._prepares_in_time():
                run = DXO(DataKind.APP_DEFINED, data=dict(self.config.extra)).to_shareable()
                self._prepare_run(fl_ctx, run, abort_signal)
            return make_reply(ReturnCode.OK)
        if ADDRESSES in data:
            links = self._told(lambda: links_of(data, self.client_name), fl_ctx)
            self._connect_links(links.addresses, links.start_timeout, links.by_value)
            return make_reply(ReturnCode.OK)
        self._learn_name(fl_ctx)  # again, because a subclass's handle_event need not call this one's
        require_free_names(vars(self), type(self))
        config = self._told(lambda: part_of(data, self.client_name), fl_ctx)
        if not config.schedule:
            # the stock package's controller sends neighbours alone: every edge goes both ways
            ends = [
                Node(neighbor.id, [Neighbor(self.client_name, neighbor.weight)])
                for neighbor in config.neighbors
            ]
            network = Network([Node(self.client_name, config.neighbors), *ends])
            config.schedule = network.schedules()[self.client_name]
        address = self._configure(config, fl_ctx, abort_signal)
        reply = {ADDRESS: address, BY_VALUE: self._wants_values(), CHECKPOINTS: self._checkpointed()}
        return DXO(DataKind.APP_DEFINED, data=reply).to_shareable()

    def _told(self, read: Callable[[], T], fl_ctx: FLContext) -> T:
        """What the server tells, as ``read`` returns it; what that refuses is counted."""
        try:
            return read()
        except RecordError:
            count_malformed(self._flaremesh.joined, fl_ctx.get_job_id())
            raise

    def _prepares_in_time(self) -> bool:
        """Whether the run may be prepared before the task that runs it."""
        return True

    def _checkpointed(self) -> list[int]:
        """The iterations of which this site has a checkpoint of the run."""
        return []

    def _wants_values(self) -> bool:
        """Whether code of this site's own sees or makes what sites tell each other."""
        return False

    def _configure(self, config: LocalConfig, fl_ctx: FLContext, abort_signal: Signal) -> Address | None:
        """Take the site's part of the network; returns where in-neighbours dial, None if they cannot."""
        self.config = config
        return None

    def _join_run(self, algorithm: str, fl_ctx: FLContext, abort_signal: Signal) -> Address | None:
        """Make this site's link, metrics and progress; returns where in-neighbours dial, None if they cannot.

        Args:
            algorithm: its name in the metrics.
            fl_ctx: context of the ``config`` task.
            abort_signal: triggered when the run is aborted.
        """
        positive(self.config.extra, "peer_timeout", DEFAULT_PEER_TIMEOUT)
        member = Member.join(fl_ctx, self.config, algorithm, abort_signal)
        self._flaremesh.joined = member
        return member.link.address

    def _connect_links(self, addresses: Mapping[str, Address], timeout: float, by_value: bool) -> None:
        """Link the neighbours.

        Args:
            addresses: of all sites that can be dialled.
            timeout: seconds that it may take.
            by_value: whether all sites exchange values by the stock package's methods.
        """
        part = self._flaremesh
        part.by_value, part.start_timeout = by_value, timeout
        if part.joined is not None:
            part.joined.open(addresses, timeout)
        part.linked = True

    def _prepare_run(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        """Do all that precedes the first iteration, within ``start_timeout`` instead of ``peer_timeout``."""
        self._flaremesh.prepared = True

    def _enter_state(self, state: RunState) -> None:
        """The run has come to ``state`` at this site; an end stops all that runs in the background."""
        if self._flaremesh.joined is not None:
            self._flaremesh.joined.enter(state, self.peer_timeout)

    def _panicked(self, reason: str) -> None:
        """Tell the server at once that code of this site ends the run with ``system_panic``."""
        if self._flaremesh.joined is not None:
            self._flaremesh.joined.progress.panic(reason)

    def _site_result(self) -> dict[str, Any]:
        """What the server learns of a finished run; see flaremesh.p2p.outcome.SiteResult."""
        return {}
