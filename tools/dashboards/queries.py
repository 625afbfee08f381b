"""The pieces of PromQL that panels share: each selector names the mesh, and a run is found by its id."""

from collections.abc import Callable

from flaremesh.metrics.names import AgentMetric, RunMetric

RATE_WINDOW = "$__rate_interval"
PHASE_SECONDS = f"{RunMetric.PHASE_SECONDS.value.full_name}_sum"
PHASE_BUCKETS = f"{RunMetric.PHASE_SECONDS.value.full_name}_bucket"

# what files/rules.yaml of the chart records
DISTANCE = "mesh:flaremesh_consensus_distance:norm"
EXPECTED_DISTANCE = "mesh:flaremesh_consensus_distance_expected:norm"
CONTRACTION = "mesh:flaremesh_contraction:ratio1m"
PREDICTED_CONTRACTION = "mesh:flaremesh_predicted_contraction_ratio:max"


def series(metric: RunMetric | AgentMetric | str, **labels: str) -> str:
    """A metric's series of the mesh that have these labels.

    Args:
        metric: the metric; or a name, for a recorded series, a part of a histogram, or another program's.
        labels: ``site`` may be a pattern, since readers choose several sites.
    """
    name = metric if isinstance(metric, str) else metric.value.full_name
    matchers = (
        f'{label}{"=~" if label == "site" else "="}"{value}"'
        for label, value in ({"mesh": "$mesh"} | labels).items()
    )
    return f"{name}{{{', '.join(matchers)}}}"


def rate(metric: RunMetric | AgentMetric | str, **labels: str) -> str:
    """How fast a counter grows, per second."""
    return f"rate({series(metric, **labels)}[{RATE_WINDOW}])"


def each(expression: str, *by: str) -> str:
    """One series for each value of the labels ``by``, also of a site that is scraped and shared."""
    return f"max by ({', '.join(by)}) ({expression})"


def of_run(expression: str, *by: str) -> str:
    """One series of the chosen run at the chosen sites for each value of the labels ``by``."""
    info = series(RunMetric.INFO, run_id="$run", site="$site")
    return each(
        f"{expression} * on (mesh, site, slot) group_left () {each(info, 'mesh', 'site', 'slot')}", *by
    )


def recorded_of_run(record: str) -> str:
    """What a rule has recorded of the chosen run as a whole."""
    info = series(RunMetric.INFO, run_id="$run")
    return each(f"{series(record)} * on (mesh, slot) group_left () {each(info, 'mesh', 'slot')}")


def of_runs(expression: str, *by: str) -> str:
    """One series of all runs for each value of the labels ``by``, which may be those of ``run_info``."""
    gained = RunMetric.INFO.value.labels
    info = each(series(RunMetric.INFO), "mesh", "site", "slot", *gained)
    return each(f"{expression} * on (mesh, site, slot) group_left ({', '.join(gained)}) {info}", *by)


def per_iteration(counter: RunMetric | str, *by: str, of: Callable[..., str] = rate) -> str:
    """How much an iteration of the chosen run adds to a counter.

    Args:
        counter: the counter.
        by: labels to keep; without ``site``, the mean over the sites.
        of: ``rate`` for what iterations add now, ``series`` for the mean since the run began, when its
            counters were 0.
    """
    site = ["site"] if "site" in by else []
    added = f"sum by ({', '.join(by)}) ({of_run(of(counter), *sorted({'site', *by}))})"
    iterations = f"sum by ({', '.join(site)}) ({of_run(of(RunMetric.ITERATIONS), 'site')})"
    return f"{added} / on ({', '.join(site)}) group_left () ({iterations} > 0)"


def total(expression: str, *by: str) -> str:
    """The sum over all labels but ``by``."""
    return f"sum by ({', '.join(by)}) ({expression})"


def or_zero(expression: str) -> str:
    """The expression, or 0 where it has no series: a counter that never counted has none."""
    return f"{expression} or vector(0)"
