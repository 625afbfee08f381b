"""Gradient tracking on a torch module: subclass it, and build model and data in the constructor."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from torch import Tensor
from torch.nn import Module
from typing_extensions import override

from flaremesh.algorithms import Algorithm, Exchange, Gradient, Step, Vectors, Weights
from flaremesh.algorithms.gradient_tracking import GradientTracking, GradientTrackingState
from flaremesh.p2p.executors.by_value import flat, set_all
from flaremesh.p2p.executors.module_executor import ModuleExecutor, received, sent, trainable_of
from flaremesh.problems.module import Batch
from flaremesh.runtime.site_run import SiteRun


class GTExecutor(ModuleExecutor):
    """Gradient tracking; the arguments are those of ModuleExecutor.

    Attributes:
        tracker, old_gradient: lists of tensors shaped like the model's parameters. They are up to date in
            `_update_local_state` and `_exchange_values`, and when the run is over. Where `_pre_algorithm_run`
            leaves them zero, both start as the gradient at the initial point.
    """

    algorithm_name = "gradient-tracking"

    def __init__(
        self,
        model: Module | None = None,
        loss: Callable[[Any, Any], Tensor] | None = None,
        train_dataloader: Iterable[Batch] | None = None,
        test_dataloader: Iterable[Batch] | None = None,
        val_dataloader: Iterable[Batch] | None = None,
        sync_timeout: float | None = None,
    ) -> None:
        super().__init__(model, loss, train_dataloader, test_dataloader, val_dataloader, sync_timeout)
        self.tracker: list[Tensor] = []
        self.old_gradient: list[Tensor] = []

    @override
    def _pre_algorithm_run(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        super()._pre_algorithm_run(fl_ctx, shareable, abort_signal)
        self.tracker, self.old_gradient = self._zeros_like_parameters(), self._zeros_like_parameters()

    def _update_local_state(self, stepsize: float) -> None:
        """Descend from the mixed parameters, in place; ``tracker`` is the one before mixing."""
        for parameter, tracker in zip(self._given_model().parameters(), self.tracker, strict=True):
            if parameter.requires_grad:
                parameter.sub_(tracker, alpha=stepsize)

    @override
    def _make_algorithm(self, extra: dict[str, Any]) -> Algorithm[Any]:
        algorithm = super()._make_algorithm(extra)  # which also checks what extra says
        if self._flaremesh.by_value:
            return _Tracking(self, extra["stepsize"])
        return algorithm

    @override
    def _to_message(self, x: Mapping[str, Iterable[Tensor]]) -> Any:
        """``parameters`` and ``tracker`` as arrays."""
        return {name: [sent(tensor) for tensor in tensors] for name, tensors in x.items()}

    @override
    def _from_message(self, x: Mapping[str, Iterable[Any]]) -> Any:
        """Tensors of what `_to_message` gave."""
        return {name: [received(array) for array in arrays] for name, arrays in x.items()}

    @override
    def _value_of(self, vectors: Vectors) -> Any:
        self.tracker = self._like_parameters(vectors[1])
        return {"parameters": super()._value_of(vectors), "tracker": self.tracker}

    @override
    def _own_vectors(self, vectors: Vectors) -> Vectors:
        return (*super()._own_vectors(vectors), self._flat_trainable(self.tracker, vectors[1]))

    @override
    def _vectors_of(self, value: Any, like: Vectors) -> Vectors:
        (parameters,) = super()._vectors_of(value["parameters"], like)
        return parameters, self._flat_trainable(value["tracker"], like[1])

    @override
    def _show_end(self, run: SiteRun) -> None:
        if not self._flaremesh.by_value:
            self.tracker, self.old_gradient = (
                self._like_parameters(run.state[1]),
                self._like_parameters(run.state.g),
            )

    def _zeros_like_parameters(self) -> list[Tensor]:
        parameters = [] if self.model is None else self.model.parameters()
        return [torch.zeros_like(parameter, requires_grad=False) for parameter in parameters]

    def _like_parameters(self, vector: Tensor) -> list[Tensor]:
        """A vector's parts shaped like the parameters, zero for those that are frozen."""
        tensors = self._zeros_like_parameters()
        set_all(self._of_trainable(tensors), vector)
        return tensors

    def _flat_trainable(self, tensors: Iterable[Any], like: Tensor) -> Tensor:
        return flat(self._of_trainable(tensors), like)

    def _tracking_start(self, x0: Tensor, gradient: Gradient) -> tuple[Tensor, Tensor]:
        """Tracker and gradient to begin with."""
        if any(bool(tensor.any()) for tensor in [*self.tracker, *self.old_gradient]):
            return self._flat_trainable(self.tracker, x0), self._flat_trainable(self.old_gradient, x0)
        g = gradient(x0)
        self.old_gradient = self._like_parameters(g)
        return g, g

    def _descended(self, wx: Tensor, wy: Tensor, stepsize: float) -> tuple[Tensor, Tensor]:
        """Iterate and mixed tracker after `_update_local_state`, which changes the model in place."""
        parameters = trainable_of(self._given_model())
        before = self._flat_trainable(self.tracker, wy)
        with torch.no_grad():
            set_all(parameters, wx)
            self._update_local_state(self._stepsize or stepsize)
            changed = self._flat_trainable(self.tracker, wy) - before
            return flat(parameters, wx), wy.add_(changed, alpha=self._weight)


class _Tracking(Algorithm[GradientTrackingState]):
    """Gradient tracking whose local step and step size are the executor's, which a subclass may change."""

    weights: ClassVar[Weights] = GradientTracking.weights
    exchanges: ClassVar[tuple[Exchange, ...]] = GradientTracking.exchanges

    def __init__(self, executor: GTExecutor, stepsize: float):
        self._executor, self._stepsize = executor, stepsize

    @override
    def init(self, x0: Tensor, gradient: Gradient) -> GradientTrackingState:
        return GradientTrackingState(x0, *self._executor._tracking_start(x0, gradient))

    @override
    def step(self, state: GradientTrackingState, gradient: Gradient) -> Step[GradientTrackingState]:
        executor = self._executor
        mixed = yield state.x, state.y
        wx, wy = mixed()
        x, wy = executor._descended(wx, wy, self._stepsize)
        g = gradient(x)
        y = wy.add_(g).sub_(executor._flat_trainable(executor.old_gradient, g))
        executor.tracker, executor.old_gradient = executor._like_parameters(y), executor._like_parameters(g)
        return GradientTrackingState(x, y, g)

    @override
    def estimate(self, state: GradientTrackingState) -> Tensor:
        return state.x
