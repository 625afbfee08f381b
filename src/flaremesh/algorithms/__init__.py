"""Distributed algorithms as pure steps; importing the package fills the registry."""

from flaremesh.algorithms import consensus, dgd, gradient_tracking, gtadam, push_sum, sgp  # noqa: F401  # each registers itself
from flaremesh.algorithms.protocol import Algorithm, Gradient, Mixed, Vectors, Weights
from flaremesh.algorithms.registry import algorithm_class, configured, create, names, register

__all__ = [
    "Algorithm",
    "Gradient",
    "Mixed",
    "Vectors",
    "Weights",
    "algorithm_class",
    "configured",
    "create",
    "names",
    "register",
]
