"""Distributed algorithms as pure steps; importing the package fills the registry.

Steps call methods of the tensors that they are given. So what only asks for an algorithm's weights and
parameters, such as ``flaremesh plan``, does not wait for torch: modules here import it for annotations alone.
"""

import pkgutil
from importlib import import_module

from flaremesh.algorithms.protocol import (
    Algorithm,
    Analysed,
    Exchange,
    FixedPoint,
    Gradient,
    Mixed,
    Spectrum,
    Step,
    Vectors,
    Weights,
)
from flaremesh.algorithms.registry import algorithm_class, configured, create, names, register

__all__ = [
    "Algorithm",
    "Analysed",
    "Exchange",
    "FixedPoint",
    "Gradient",
    "Mixed",
    "Spectrum",
    "Step",
    "Vectors",
    "Weights",
    "algorithm_class",
    "configured",
    "create",
    "names",
    "register",
]

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")  # each registers what it defines
