"""Consensus on a number."""

import random

import torch
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from flaremesh.p2p.executors.algorithm_executor import AlgorithmExecutor
from flaremesh.problems.consensus import Consensus
from flaremesh.problems.protocol import Problem, SiteContext
from flaremesh.runtime.site_run import SiteRun


class ConsensusExecutor(AlgorithmExecutor):
    """Averages ``initial_value`` over the network.

    Args:
        initial_value: the site's number; a random one in [0, 1) if None.
        sync_timeout: see SyncAlgorithmExecutor.

    Attributes:
        current_value: the site's value now.
        value_history: its value before the first and after every iteration; saved as value_sequence.pt.
    """

    def __init__(self, initial_value: float | None = None, sync_timeout: float | None = None) -> None:
        super().__init__("consensus", sync_timeout=sync_timeout)
        self.initial_value = random.random() if initial_value is None else initial_value
        self.current_value = float(self.initial_value)
        self.value_history = [self.current_value]

    def _make_problem(self, site: SiteContext) -> Problem:
        return Consensus(site, values={site.name: self.initial_value})

    def _observe(self, run: SiteRun) -> None:
        self.current_value = float(run.estimate)
        self.value_history.append(self.current_value)

    def _post_algorithm_run(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        torch.save(torch.tensor(self.value_history), self._run_dir(fl_ctx) / "value_sequence.pt")
