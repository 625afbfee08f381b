"""What flaremesh is held to on a wide-area network."""

from collections.abc import Iterator, Mapping

from bench.samples import FLAREMESH, Key, Repeats, Target, figure
from bench.wan.cases import Way, system

MILLISECONDS, SHARE, TIMES = "ms", "% of the line", "times exact"
"""Units of the rows."""

_LARGE = 10_000_000
_LEAST_SHARE = 90.0
_LEAST_TIMES = {"bfloat16": 1.8, "int8": 3.3}
_SLACK_MILLISECONDS = 0.5


def targets_of(ways: Mapping[str, Way], key: Key, systems: Mapping[str, Repeats]) -> Iterator[Target]:
    """The targets of a row.

    Args:
        ways: by the name of the row's case.
        key: the row.
        systems: its figures.
    """

    def median(name: str) -> float | None:
        return figure(systems.get(name, {})).median

    value = median(FLAREMESH)
    if key.unit == MILLISECONDS and key.floats == 1 and value is not None:
        most = 2e3 * ways[key.case].one_way + _SLACK_MILLISECONDS
        yield Target(f"<= round trip + {_SLACK_MILLISECONDS} ms", value, value <= most)
    if key.unit == SHARE and key.floats >= _LARGE and value is not None:
        yield Target(f">= {_LEAST_SHARE:g} % of the line", value, value >= _LEAST_SHARE)
    if key.unit == TIMES and key.floats >= _LARGE:
        for wire, least in _LEAST_TIMES.items():
            if (times := median(system(wire))) is not None:
                yield Target(f"{wire} >= {least}x exact", times, times >= least)
