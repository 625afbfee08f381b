"""Consensus on a number."""

import random
from typing import Any, ClassVar

import numpy as np
import torch
from nvflare.apis.fl_context import FLContext
from torch import Tensor

from flaremesh.algorithms import Vectors
from flaremesh.p2p.executors.algorithm_executor import AlgorithmExecutor
from flaremesh.p2p.executors.by_value import flat
from flaremesh.p2p.executors.ported import MESSAGES, STEPS
from flaremesh.problems.consensus import Consensus
from flaremesh.problems.protocol import Problem, ProblemError, SiteContext
from flaremesh.runtime.site_run import SiteRun


class ConsensusExecutor(AlgorithmExecutor):
    """Averages ``current_value``, at first the ``initial_value``, over the network.

    Args:
        initial_value: the site's number, or an array of numbers; a random number in [0, 1) if None.
        sync_timeout: see SyncAlgorithmExecutor.

    Attributes:
        current_value: the site's value now.
        value_history: its value before the first and after every iteration; saved as value_sequence.pt.
    """

    _hooks: ClassVar[frozenset[str]] = MESSAGES | STEPS

    def __init__(self, initial_value: float | None = None, sync_timeout: float | None = None) -> None:
        super().__init__("consensus", sync_timeout=sync_timeout)
        self.initial_value = random.random() if initial_value is None else initial_value
        self.current_value: Any = _plain(self.initial_value)
        self.value_history = [self.current_value]

    def _algorithm_name(self) -> str:
        return "consensus"

    def _authorize(self, fl_ctx: FLContext) -> None:
        """The job names no class."""

    def _own_sink(self) -> None:
        return None

    def _make_problem(self, site: SiteContext) -> Problem:
        try:
            start = torch.as_tensor(self.current_value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ProblemError(
                f"the current_value of {site.name} is {self.current_value!r}; a number is expected, "
                "or an array of numbers"
            ) from error
        return Consensus(site, values={site.name: start.reshape(-1).tolist()})

    def _observe(self, run: SiteRun) -> None:
        self.current_value = _like(run.estimate, self.current_value)
        self.value_history.append(self.current_value)

    def _value_of(self, vectors: Vectors) -> Any:
        return self.current_value

    def _own_vectors(self, vectors: Vectors) -> Vectors:
        return (flat([self.current_value], vectors[0]),)

    def _vectors_of(self, value: Any, like: Vectors) -> Vectors:
        return (flat([value], like[0]),)

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
