"""The classes of flaremesh that a job may name, for the allow-list of the kits and for the door of a site.

They are allowed one by one: a prefix such as ``flaremesh.`` would allow every function below it, and some
functions import what their arguments name.
"""

from typing import Final

from flaremesh import algorithms

COMPONENTS: Final = (
    "flaremesh.p2p.controllers.DistOptController",
    "flaremesh.p2p.controllers.dist_opt_controller.DistOptController",
    "flaremesh.p2p.executors.AlgorithmExecutor",
    "flaremesh.p2p.executors.ConsensusExecutor",
    "flaremesh.p2p.executors.DGDExecutor",
    "flaremesh.p2p.executors.GTADAMExecutor",
    "flaremesh.p2p.executors.GTExecutor",
    "flaremesh.p2p.executors.algorithm_executor.AlgorithmExecutor",
    "flaremesh.p2p.executors.consensus.ConsensusExecutor",
    "flaremesh.p2p.executors.distributed_gradient_descent.DGDExecutor",
    "flaremesh.p2p.executors.gtadam.GTADAMExecutor",
    "flaremesh.p2p.executors.gradient_tracking.GTExecutor",
    # plain data, as arguments of the others
    "flaremesh.p2p.types.Config",
    "flaremesh.p2p.types.LocalConfig",
    "flaremesh.p2p.types.Neighbor",
    "flaremesh.p2p.types.Network",
    "flaremesh.p2p.types.Node",
)
"""Under the names that the documentation uses, and under those that NVFlare's FedJob writes."""

ALGORITHMS: Final = tuple(
    f"{cls.__module__}.{cls.__qualname__}" for cls in map(algorithms.algorithm_class, algorithms.names())
)
"""The algorithms of the registry, which jobs mostly name by their short names."""

PROBLEMS: Final = (
    "flaremesh.problems.consensus.Consensus",
    "flaremesh.problems.digits.Digits",
    "flaremesh.problems.mnist.Mnist",
    "flaremesh.problems.two_moons.TwoMoons",
)
"""The problems that flaremesh brings along."""

CLASSES: Final = (*COMPONENTS, *ALGORITHMS, *PROBLEMS)
"""All of them."""
