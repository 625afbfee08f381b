"""Executors: a site's part of a run."""

from flaremesh.p2p.executors.algorithm_executor import AlgorithmExecutor
from flaremesh.p2p.executors.base_dist_opt_executor import BaseDistOptExecutor
from flaremesh.p2p.executors.consensus import ConsensusExecutor
from flaremesh.p2p.executors.distributed_gradient_descent import DGDExecutor
from flaremesh.p2p.executors.gradient_tracking import GTExecutor
from flaremesh.p2p.executors.gtadam import GTADAMExecutor
from flaremesh.p2p.executors.sync_executor import SyncAlgorithmExecutor

__all__ = [
    "AlgorithmExecutor",
    "BaseDistOptExecutor",
    "ConsensusExecutor",
    "DGDExecutor",
    "GTADAMExecutor",
    "GTExecutor",
    "SyncAlgorithmExecutor",
]
