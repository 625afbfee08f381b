"""Writes docs/metrics.md, the list of all metrics, from metrics.names."""

from collections.abc import Collection, Iterator
from pathlib import Path

from flaremesh.links import Refusal
from flaremesh.metrics.names import (
    DURATION_BUCKETS,
    OF_SITES,
    OF_THE_SERVER,
    AgentMetric,
    Metric,
    Phase,
    RunMetric,
    RunState,
)
from flaremesh.topology.links import Carried

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"

LABEL_VALUES: dict[str, Collection[str]] = {
    "state": tuple(RunState),
    "phase": tuple(Phase),
    "kind": tuple(Carried),
    "reason": tuple(Refusal),
}
"""The values of the labels of a run's metrics that have a fixed set of them."""

_SERVERS = {metric.value for metric in OF_THE_SERVER}  # their label `kind` is not that of links

_TEXT = """\
# Metrics

Every participant serves its metrics at `http://<participant>:9464/metrics`. This is all that it serves;
a test holds a live mesh to it, name by name and label by label. How they are collected:
[monitoring.md](monitoring.md).

- The scraper gives all series the labels `mesh`, `site` (`server` for the server) and `job="flaremesh"`.
- A run's series carry `slot`, a small number that the next run takes over. No series carries a run's id but
  `flaremesh_run_info`, and those of sites that a run has lost; join it:
  `flaremesh_train_loss * on (mesh, site, slot) group_left (run_id) flaremesh_run_info`.
- A run's series outlive it until another run takes its slot. Its counters begin at 0, as any process's do.
- What a run's process counts is at most a second old. A figure that nobody has measured yet has no series.

## Of a run, at its sites

{run}

Histograms have the buckets {buckets} s.

## Of a participant, between runs too

{agent}

## How many series there are

At most {fixed} of each slot, {each} more for each neighbour, and {agents} of the participant. A site has
as many slots as it has had runs at the same time: with four neighbours and one run at a time it has at most
{example} series, over any number of runs. The server adds those that sites share, and
one for each site that is missing from a run, until that is over.

<!-- Generated from src/flaremesh/metrics/names.py by `make charts`: do not edit. -->
"""


def page() -> str:
    """The page as Markdown."""
    run = [metric.value for metric in RunMetric]
    return _TEXT.format(
        run="\n".join(_table(("metric", "type", "labels", "what it says"), map(_row, run))),
        agent="\n".join(
            _table(
                ("metric", "type", "labels", "of", "what it says"),
                ((*_row(metric.value)[:3], _whose(metric), metric.value.help) for metric in AgentMetric),
            )
        ),
        buckets=", ".join(f"{bound:g}" for bound in DURATION_BUCKETS),
        fixed=most_series(1, 0) - most_series(0, 0),
        each=most_series(1, 1) - most_series(1, 0),
        agents=most_series(0, 0),
        example=most_series(1, 4),
    )


def most_series(slots: int, neighbors: int) -> int:
    """How many series a site has at most, with so many slots and neighbours."""
    run = [metric.value for metric in RunMetric]
    strangers = _series(RunMetric.EXCHANGE_FAILURES.value)  # they share an empty name
    of_a_slot = sum(_series(m) for m in run if "peer" not in m.labels) + strangers
    of_a_neighbor = sum(_series(m) for m in run if "peer" in m.labels)
    of_the_site = len([metric for metric in AgentMetric if metric not in OF_THE_SERVER])
    return slots * (of_a_slot + neighbors * of_a_neighbor) + of_the_site


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row)} |"


def _row(metric: Metric) -> tuple[str, ...]:
    labels = ", ".join(
        f"`{label}`: {', '.join(LABEL_VALUES[label])}"
        if label in LABEL_VALUES and metric not in _SERVERS
        else f"`{label}`"
        for label in metric.labels
    )
    return f"`{metric.full_name}`", metric.kind, labels, metric.help


def _whose(metric: AgentMetric) -> str:
    return "server" if metric in OF_THE_SERVER else "site" if metric in OF_SITES else "both"


def _series(metric: Metric) -> int:
    """How many series of a metric there are at most, for one slot and one neighbour."""
    count = len(DURATION_BUCKETS) + 3 if metric.kind == "histogram" else 1  # +Inf, sum and count
    for label in metric.labels:
        count *= len(LABEL_VALUES.get(label, ("any",)))
    return count


if __name__ == "__main__":
    PAGE.write_text(page())
