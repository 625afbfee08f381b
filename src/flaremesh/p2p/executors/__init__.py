"""Executors: a site's part of a run."""

from flaremesh.p2p.executors.algorithm_executor import AlgorithmExecutor
from flaremesh.p2p.executors.base_dist_opt_executor import BaseDistOptExecutor
from flaremesh.p2p.executors.consensus import ConsensusExecutor
from flaremesh.p2p.executors.module_executors import DGDExecutor, GTADAMExecutor, GTExecutor
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
