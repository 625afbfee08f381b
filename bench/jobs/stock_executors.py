"""The executors of nvflare.app_opt.p2p, timed."""

import itertools
import time
from typing import Any

import torch
from nvflare.apis.dxo import from_shareable
from nvflare.app_opt.p2p import executors
from nvflare.app_opt.p2p.executors.sync_executor import SyncAlgorithmExecutor
from torch.utils.data import DataLoader, TensorDataset

from bench.jobs.clock import ClockedExchange, ClockedExecutor
from flaremesh.problems.digits import Digits
from flaremesh.problems.protocol import SiteContext


class Exchange(ClockedExchange, SyncAlgorithmExecutor):
    pass


class Consensus(ClockedExecutor, executors.ConsensusExecutor):
    def run_algorithm(self, fl_ctx, shareable, abort_signal):
        iterations = from_shareable(shareable).data["iterations"] - 1 - self._warm_up
        self._meter = self.measure(1, iterations, self._warm_up)
        super().run_algorithm(fl_ctx, shareable, abort_signal)

    def _exchange_values(self, fl_ctx, value, iteration):
        super()._exchange_values(fl_ctx, value, iteration)
        self._meter.tick()


class Training(ClockedExecutor, executors.GTExecutor):
    """Gradient tracking with the model, the data and the initial point of flaremesh.problems.digits.Digits.

    Args:
        sites: number of sites.
        evaluate_every: iterations between evaluations, which are flaremesh's too.
    """

    train_dataloader: Any

    def __init__(self, sites, evaluate_every):
        # the data is the site's, whose name is not known yet
        super().__init__(model=torch.nn.Identity(), loss=torch.nn.CrossEntropyLoss())
        self._sites, self._evaluate_every = sites, evaluate_every

    def _pre_algorithm_run(self, fl_ctx, shareable, abort_signal):
        seed = from_shareable(shareable).data["seed"]
        self._problem = Digits(SiteContext(self.client_name, self.id - 1, self._sites, seed))
        self.model = self._problem._module
        batch = self._problem._batches.next()
        self.train_dataloader = self.test_dataloader = DataLoader(TensorDataset(*batch), len(batch[0]))
        super()._pre_algorithm_run(fl_ctx, shareable, abort_signal)
        # at the end of an epoch, here of every iteration, it would compute the losses of all data
        self.train_dataloader = itertools.repeat(batch)

    def _exchange_values(self, fl_ctx, value, iteration):
        if iteration % self._evaluate_every == 0:
            accuracy = self._problem.evaluate(self._problem.initial())["accuracy"]
            self.accuracies.append((time.time(), accuracy))
        super()._exchange_values(fl_ctx, value, iteration)
