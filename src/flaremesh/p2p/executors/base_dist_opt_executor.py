"""What all executors of the stock package have, for code that was written for it."""

from abc import abstractmethod
from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from typing_extensions import override

from flaremesh.links.carrier import Address
from flaremesh.p2p.executors.ported import SiteName, overrides
from flaremesh.p2p.executors.run_executor import RunExecutor
from flaremesh.p2p.types import LocalConfig, Neighbor


class BaseDistOptExecutor(RunExecutor):
    """Base of the stock-compatible executors.

    Attributes:
        id, client_name: name of the site.
        config: the site's part of the network and the run's ``extra``.
        neighbors: in-neighbours with their weights w_ij, in the present phase of a graph that changes.
    """

    _by_value_unasked = True  # a subclass at another site may want them

    def __init__(self) -> None:
        super().__init__()
        self.id = SiteName()
        self.neighbors: list[Neighbor] = []
        self._weight = 1.0

    @override
    def _perform_run(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        self.run_algorithm(fl_ctx, shareable, abort_signal)
        self._post_algorithm_run(fl_ctx, shareable, abort_signal)

    @override
    def _learn_name(self, fl_ctx: FLContext) -> None:
        super()._learn_name(fl_ctx)
        self.id = SiteName(self.client_name)

    @override
    def _prepares_in_time(self) -> bool:
        # a subclass's execute may prepare by itself, as the stock package's does
        return not overrides(self, "execute")

    @override
    def _wants_values(self) -> bool:
        return True

    @override
    def _configure(self, config: LocalConfig, fl_ctx: FLContext, abort_signal: Signal) -> Address | None:
        self.neighbors = config.neighbors
        self._weight = config.schedule[0].self_weight
        return super()._configure(config, fl_ctx, abort_signal)

    @override
    def _prepare_run(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        self._pre_algorithm_run(fl_ctx, shareable, abort_signal)
        super()._prepare_run(fl_ctx, shareable, abort_signal)

    def _pre_algorithm_run(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        """Hook before the algorithm."""

    def _post_algorithm_run(self, *args: Any, **kwargs: Any) -> None:
        """Hook after the algorithm; gets the arguments of run_algorithm."""

    @abstractmethod
    def _exchange_values(self, fl_ctx: FLContext, value: Any, *args: Any, **kwargs: Any) -> None:
        """Send ``value`` to the out-neighbours and collect the in-neighbours' values."""

    @abstractmethod
    def _handle_neighbor_value(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        """Take in one neighbour's value."""

    def _to_message(self, x: Any) -> Any:
        """What is sent for ``x``: numbers, strings, arrays, tensors, and lists, tuples and dicts of them."""
        return x

    def _from_message(self, x: Any) -> Any:
        """The value of a received message."""
        return x
