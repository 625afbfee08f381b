"""The consensus distance of a run and the rate at which it contracts."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flaremesh.runtime.history import History

_FEWEST_POINTS = 8
_STRAIGHT = 0.98
_RESOLUTION = 1e-6
_BREAKPOINTS = 200


@dataclass(frozen=True)
class Distance:
    """‖(I − W)X‖ over all sites, before the update of each iteration.

    Attributes:
        iterations: (m,) int, those that every site finished.
        values: (m,) float, NaN or infinite where the run diverged.
    """

    iterations: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """A straight line through the logarithm of a distance.

    Attributes:
        contraction: factor per iteration.
        first: first iteration the line was fitted to.
        last: last iteration the line was fitted to.
        at_first: the line's value at ``first``.
    """

    contraction: float
    first: int
    last: int
    at_first: float


def consensus_distance(histories: Iterable[History]) -> Distance:
    """Root of the sum of squares of the sites' local distances."""
    local = [
        {record.iteration: record.consensus_distance for record in history.iterations}
        for history in histories
    ]
    shared = sorted(set.intersection(*map(set, local))) if local else []
    values = np.array([[site[iteration] for iteration in shared] for site in local], dtype=np.float64)
    # hypot: the squares of a run about to diverge overflow
    return Distance(
        np.array(shared, dtype=np.int64), np.hypot.reduce(values.reshape(len(local), len(shared)), axis=0)
    )


def fit_contraction(distance: Distance) -> Fit | None:
    """Contraction per iteration of the stretch that falls geometrically, None where nothing does.

    The descent runs from the largest distance to where it levels off (round-off, or the noise of the
    gradients); the slope comes from its middle, after the fast modes of W have died out.
    """
    usable = np.isfinite(distance.values)
    if not usable.any():
        return None
    start = int(np.argmax(np.where(usable, distance.values, 0)))
    usable &= distance.values > _RESOLUTION * distance.values[start]
    stop = start + int(np.argmin(np.append(usable[start:], False)))
    iterations, logs = distance.iterations[start:stop].astype(np.float64), np.log(distance.values[start:stop])
    if len(logs) < _FEWEST_POINTS:
        return None

    length = _descent(iterations, logs)
    middle = slice(length // 3, length - length // 6)
    iterations, logs = iterations[middle], logs[middle]
    if len(logs) < _FEWEST_POINTS or np.ptp(logs) == 0:
        return None
    slope, offset = np.polyfit(iterations, logs, 1)
    residual = logs - (slope * iterations + offset)
    if slope >= 0 or 1 - residual.var() / logs.var() < _STRAIGHT:
        return None
    first, last = int(iterations[0]), int(iterations[-1])
    return Fit(float(np.exp(slope)), first, last, float(np.exp(slope * first + offset)))


def _descent(iterations: NDArray[np.float64], logs: NDArray[np.float64]) -> int:
    """Number of points before the curve levels off: the best breakpoint of a line that turns flat."""
    breakpoints = np.unique(np.linspace(1, len(logs) - 1, _BREAKPOINTS).astype(int))

    def misfit(breakpoint: int) -> float:
        hinge = np.minimum(iterations, iterations[breakpoint])
        design = np.column_stack([np.ones_like(hinge), hinge])
        solution = np.linalg.lstsq(design, logs, rcond=None)[0]
        return float(np.sum((design @ solution - logs) ** 2))

    return min((int(point) for point in breakpoints), key=misfit) + 1
