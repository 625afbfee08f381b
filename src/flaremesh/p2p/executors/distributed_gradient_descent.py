"""Distributed gradient descent on a torch module: subclass it, build model and data in the constructor."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from flaremesh.algorithms import Algorithm, Gradient, Mixed, Vectors, Weights
from flaremesh.algorithms.dgd import DgdCta, DgdState
from flaremesh.p2p.executors.module_executor import ModuleExecutor, received, sent


class DGDExecutor(ModuleExecutor):
    """Distributed gradient descent, combine then adapt: the gradient is taken at the mixed point."""

    algorithm_name = "dgd-cta"

    def _make_algorithm(self, extra: dict[str, Any]) -> Algorithm[Any]:
        algorithm = super()._make_algorithm(extra)
        if self._flaremesh.by_value and isinstance(algorithm, DgdCta):
            return _Descent(self, algorithm)
        return algorithm

    def _to_message(self, x: Any) -> Any:
        """The trainable ones of the parameters ``x``, as arrays."""
        return [sent(parameter) for parameter in x if parameter.requires_grad]

    def _from_message(self, x: Iterable[Any]) -> Any:
        """Tensors of what `_to_message` gave."""
        return [received(parameter) for parameter in x]


class _Descent:
    """The algorithm with the executor's step size, which a subclass may change in any iteration."""

    weights: ClassVar[Weights] = Weights.DOUBLY_STOCHASTIC

    def __init__(self, executor: DGDExecutor, algorithm: DgdCta):
        self._executor, self._algorithm = executor, algorithm

    def init(self, x0: Tensor, gradient: Gradient) -> DgdState:
        """See Algorithm."""
        return self._algorithm.init(x0, gradient)

    def message(self, state: DgdState) -> Vectors:
        """See Algorithm."""
        return self._algorithm.message(state)

    def update(self, state: DgdState, mixed: Mixed, gradient: Gradient) -> DgdState:
        """See Algorithm."""
        vectors = mixed()  # first, because the step size may change in the exchange
        if stepsize := self._executor._stepsize:
            self._algorithm = replace(self._algorithm, stepsize=stepsize)
        return self._algorithm.update(state, lambda: vectors, gradient)

    def estimate(self, state: DgdState) -> Tensor:
        """See Algorithm."""
        return self._algorithm.estimate(state)
