"""Checks of hyper-parameters that several algorithms share."""

import math
from numbers import Real

from flaremesh.printable import refused


def require_positive(**values: float) -> None:
    """Raise ValueError naming the first value that is not a positive finite number."""
    for name, value in values.items():
        if not (_is_number(value) and value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, not {refused(value)}")


def require_fraction(**values: float) -> None:
    """Raise ValueError naming the first value outside [0, 1)."""
    for name, value in values.items():
        if not (_is_number(value) and 0 <= value < 1):
            raise ValueError(f"{name} must be at least 0 and below 1, not {refused(value)}")


def require_count(**values: int) -> None:
    """Raise ValueError naming the first value that is not a whole number from 1 on."""
    for name, value in values.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be a whole number from 1 on, not {refused(value)}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
