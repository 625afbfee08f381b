"""Consensus on a number."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from flaremesh.algorithms import Vectors
from flaremesh.p2p.executors.by_value import flat
from flaremesh.p2p.executors.registered_executor import RegisteredExecutor
from flaremesh.problems.consensus import Consensus
from flaremesh.problems.protocol import Problem, ProblemError, SiteContext
from flaremesh.runtime.site_run import SiteRun


class ConsensusExecutor(RegisteredExecutor):
    """Averages ``current_value``, at first the ``initial_value``, over the network.

    Args:
        initial_value: the site's number, or an array of numbers; a random number in [0, 1) if None.
        sync_timeout: seconds to wait for the neighbours; None takes the run's ``peer_timeout``.

    Attributes:
        current_value: the site's value now.
        value_history: its value before the first and after every iteration; saved as value_sequence.pt.
    """

    algorithm_name = "consensus"

    def __init__(self, initial_value: float | None = None, sync_timeout: float | None = None) -> None:
        super().__init__(sync_timeout)
        self.initial_value = random.random() if initial_value is None else initial_value
        self.current_value: Any = _plain(self.initial_value)
        self.value_history = [self.current_value]

    @override
    def _make_problem(self, site: SiteContext) -> Problem:
        try:
            start = torch.as_tensor(self.current_value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ProblemError(
                f"the current_value of {site.name} is {self.current_value!r}; a number is expected, "
                "or an array of numbers"
            ) from error
        return Consensus(site, values={site.name: start.reshape(-1).tolist()})

    @override
    def _observe(self, run: SiteRun) -> None:
        self.current_value = _like(run.estimate, self.current_value)
        self.value_history.append(self.current_value)

    @override
    def _value_of(self, vectors: Vectors) -> Any:
        return self.current_value

    @override
    def _own_vectors(self, vectors: Vectors) -> Vectors:
        return (flat([self.current_value], vectors[0]),)

    @override
    def _vectors_of(self, value: Any, like: Vectors) -> Vectors:
        return (flat([value], like[0]),)

    @override
    def _post_algorithm_run(self, *args: Any, **kwargs: Any) -> None:
        self._save_sequence("value_sequence.pt", self.value_history)


def _plain(value: Any) -> Any:
    return value if isinstance(value, Tensor | np.ndarray | list) else float(value)


def _like(x: Tensor, value: Any) -> Any:
    """The numbers x (d,) in the shape and type of ``value``."""
    if isinstance(value, Tensor):
        return x.to(value).reshape(value.shape)
    if isinstance(value, np.ndarray | list):
        return x.numpy(force=True).reshape(np.shape(value)).copy()
    return float(x)
