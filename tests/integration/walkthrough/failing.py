"""Consensus at sites of which one fails."""

import time

from walkthrough.consensus import RingConsensusExecutor


class RaisingExecutor(RingConsensusExecutor):
    def _exchange_values(self, fl_ctx, value, iteration):
        if iteration == 5:
            raise KeyError("patient")
        super()._exchange_values(fl_ctx, value, iteration)


class SlowExecutor(RingConsensusExecutor):
    def _exchange_values(self, fl_ctx, value, iteration):
        if iteration == 5:
            time.sleep(8)
        super()._exchange_values(fl_ctx, value, iteration)
