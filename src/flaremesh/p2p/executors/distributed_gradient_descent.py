"""Distributed gradient descent on a torch module: subclass it, build model and data in the constructor."""

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import override

from flaremesh.algorithms import Algorithm, Exchange, Gradient, Step, Weights
from flaremesh.algorithms.dgd import DgdCta, DgdState
from flaremesh.p2p.executors.module_executor import ModuleExecutor, received, sent


class DGDExecutor(ModuleExecutor):
    """Distributed gradient descent, combine then adapt: the gradient is taken at the mixed point."""

    algorithm_name = "dgd-cta"

    @override
    def _make_algorithm(self, extra: dict[str, Any]) -> Algorithm[Any]:
        algorithm = super()._make_algorithm(extra)
        if self._flaremesh.by_value and isinstance(algorithm, DgdCta):
            return _Descent(self, algorithm)
        return algorithm

    @override
    def _to_message(self, x: Any) -> Any:
        """The trainable ones of the parameters ``x``, as arrays."""
        return [sent(parameter) for parameter in x if parameter.requires_grad]

    @override
    def _from_message(self, x: Iterable[Any]) -> Any:
        """Tensors of what `_to_message` gave."""
        return [received(parameter) for parameter in x]


class _Descent(Algorithm[DgdState]):
    """The algorithm with the executor's step size, which a subclass may change in any iteration."""

    weights: ClassVar[Weights] = DgdCta.weights
    exchanges: ClassVar[tuple[Exchange, ...]] = DgdCta.exchanges

    def __init__(self, executor: DGDExecutor, algorithm: DgdCta):
        self._executor, self._algorithm = executor, algorithm

    @override
    def init(self, x0: Tensor, gradient: Gradient) -> DgdState:
        return self._algorithm.init(x0, gradient)

    @override
    def step(self, state: DgdState, gradient: Gradient) -> Step[DgdState]:
        mixed = yield (state.x,)
        (wx,) = mixed()  # first, because the step size may change in the exchange
        stepsize = self._executor._stepsize or self._algorithm.stepsize
        return DgdState(wx.sub(gradient(wx), alpha=stepsize))

    @override
    def estimate(self, state: DgdState) -> Tensor:
        return self._algorithm.estimate(state)
