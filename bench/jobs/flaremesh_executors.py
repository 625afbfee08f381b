"""flaremesh's executors, timed."""

from bench.jobs.clock import ClockedConsensus, ClockedExchange
from flaremesh.p2p import executors


class Exchange(ClockedExchange, executors.SyncAlgorithmExecutor):
    pass


class Consensus(ClockedConsensus, executors.ConsensusExecutor):
    def _observe(self, run):
        super()._observe(run)
        self.tick()
