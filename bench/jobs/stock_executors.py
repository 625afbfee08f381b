"""The executors of nvflare.app_opt.p2p, timed."""

from nvflare.app_opt.p2p import executors
from nvflare.app_opt.p2p.executors.sync_executor import SyncAlgorithmExecutor

from bench.jobs.clock import ClockedConsensus, ClockedExchange


class Exchange(ClockedExchange, SyncAlgorithmExecutor):
    pass


class Consensus(ClockedConsensus, executors.ConsensusExecutor):
    def _exchange_values(self, fl_ctx, value, iteration):
        super()._exchange_values(fl_ctx, value, iteration)
        self.tick()
