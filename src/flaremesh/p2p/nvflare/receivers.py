"""NVFlare's receivers of metrics, which a site's own admin names, hear of a run while it goes on.

NVFlare reads ``local/*__j_resources.json`` of a kit in the process of a job, and makes what it names, but
tells it nothing of the run. This tells those that receive metrics of the run's beginning, of what the site
measures, and of its end, in a thread of its own: a receiver may wait for a server.
"""

import logging
from collections.abc import Sequence
from queue import Full, Queue
from threading import Thread

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsDataType
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.utils.analytix_utils import create_analytic_dxo
from nvflare.app_common.widgets.streaming import AnalyticsReceiver
from typing_extensions import override

from flaremesh.metrics.sink import Evaluation, Iteration, Logged, MetricsSink, Norms, numbers_of

_log = logging.getLogger(__name__)

_MOST_WAITING = 10_000  # records
_END_SECONDS = 10.0  # for what still waits when the run ends


def receivers_of(fl_ctx: FLContext) -> Sequence[AnalyticsReceiver]:
    """The receivers that the site's kit names; a run's own components are not among them."""
    client = getattr(fl_ctx.get_engine(), "client", None)
    components = getattr(client, "components", None) or {}
    return [each for each in components.values() if isinstance(each, AnalyticsReceiver)]


class LiveMetrics(MetricsSink):
    """A metrics sink that passes all finite numbers on to receivers, and never waits for one.

    Args:
        fl_ctx: of the run.
        receivers: each is told of the run's beginning and end, too.
    """

    def __init__(self, fl_ctx: FLContext, receivers: Sequence[AnalyticsReceiver]):
        self._engine, self._receivers = fl_ctx.get_engine(), receivers
        self._waiting: Queue[Iteration | Evaluation | Logged | None] = Queue(_MOST_WAITING)
        self._left_out = 0
        self._closed = False
        self._thread = Thread(target=self._deliver, name="live-metrics", daemon=True)
        self._thread.start()

    @override
    def iteration(self, record: Iteration) -> None:
        self._put(record)

    @override
    def evaluation(self, record: Evaluation) -> None:
        self._put(record)

    @override
    def logged(self, record: Logged) -> None:
        self._put(record)

    @override
    def norms(self, record: Norms) -> None:
        """Not passed on."""

    def close(self) -> None:
        """Give what waits some seconds, and end."""
        if self._closed:
            return
        self._closed = True
        try:
            self._waiting.put(None, timeout=_END_SECONDS)
        except Full:
            pass
        else:
            self._thread.join(_END_SECONDS)
        if self._left_out or self._thread.is_alive():
            left = self._left_out + self._waiting.qsize()
            _log.warning("%d records did not reach the site's receivers: they are too slow", left)

    def _put(self, record: Iteration | Evaluation | Logged) -> None:
        try:
            self._waiting.put_nowait(record)
        except Full:
            self._left_out += 1

    def _deliver(self) -> None:
        self._tell(EventType.START_RUN)
        while (record := self._waiting.get()) is not None:
            step, numbers = numbers_of(record)
            for name, number in numbers.items():
                self._tell(ANALYTIC_EVENT_TYPE, name, number, step)
        self._tell(EventType.END_RUN)

    def _tell(self, event: str, name: str = "", number: float = 0.0, step: int = 0) -> None:
        for receiver in self._receivers:
            with self._engine.new_context() as context:
                if event == ANALYTIC_EVENT_TYPE:
                    dxo = create_analytic_dxo(name, number, AnalyticsDataType.SCALAR, global_step=step)
                    context.set_prop(FLContextKey.EVENT_DATA, dxo.to_shareable(), private=True, sticky=False)
                try:
                    receiver.handle_event(event, context)
                except Exception:  # noqa: BLE001  # a receiver's own, which the run does not need
                    _log.exception("a receiver of metrics fails")
