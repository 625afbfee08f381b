"""Distributed algorithms as pure steps; importing the package fills the registry.

Modules here import torch for annotations alone, because steps only call methods of the tensors that they get.
So ``flaremesh plan`` asks for weights and hyper-parameters without waiting for torch.
"""

import pkgutil
from importlib import import_module

from flaremesh.algorithms.asynchrony import asynchrony_unsoundness
from flaremesh.algorithms.protocol import (
    Algorithm,
    Analysed,
    Exchange,
    FixedPoint,
    Gradient,
    Masked,
    Mixed,
    Repairable,
    Spectrum,
    Step,
    Vectors,
    Weights,
)
from flaremesh.algorithms.registry import (
    algorithm_class,
    configured,
    create,
    names,
    register,
    unclippable,
)

__all__ = [
    "Algorithm",
    "Analysed",
    "Exchange",
    "FixedPoint",
    "Gradient",
    "Masked",
    "Mixed",
    "Repairable",
    "Spectrum",
    "Step",
    "Vectors",
    "Weights",
    "algorithm_class",
    "asynchrony_unsoundness",
    "configured",
    "create",
    "names",
    "register",
    "unclippable",
]

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")  # each registers what it defines
