"""Federation overview: is the mesh well, and what is it doing?"""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from flaremesh.metrics.names import AgentMetric, Phase, RunMetric, RunState
from tools.dashboards.mesh_dashboard import mesh_dashboard
from tools.dashboards.panels import BAD, GOOD, Meaning, Query, Step, lines, number, rows
from tools.dashboards.queries import PHASE_BUCKETS, each, of_runs, or_zero, rate, series, total

_EACH = "{{site}}, slot {{slot}}"
_ALERT = ("alertstate", "severity", "alertname", "site")
_UP = {1: Meaning("up", GOOD), 0: Meaning("down", BAD)}


def dashboard() -> Dashboard:
    """All sites and runs of a mesh."""
    running = of_runs(f"({series(RunMetric.STATE, state=RunState.RUNNING)} == 1)", "run_id")
    missing = each(series(AgentMetric.RUN_MISSING_SINCE), "site", "run_id")
    progress = f"{series(RunMetric.CURRENT_ITERATION)} / {series(RunMetric.MAX_ITERATIONS)}"
    place = ("mesh", "site", "slot")
    state = (
        f"({series(RunMetric.STATE)} == 1) * on ({', '.join(place)}) group_left () {each(progress, *place)}"
    )
    columns = (
        *(label for label in RunMetric.INFO.value.labels if label != "attempt"),
        *RunMetric.STATE.value.labels,
    )
    sent = total(each(rate(RunMetric.EXCHANGE_ATTEMPTS), "site", "slot", "peer"), "site")
    # not its rate: a series begins with its first refusal, of which a rate sees nothing
    refused = total(each(series(RunMetric.EXCHANGE_FAILURES), "site", "slot", "peer", "reason"), "site")
    waits = each(rate(PHASE_BUCKETS, phase=Phase.WAIT), "site", "slot", "le")
    return mesh_dashboard(
        "overview",
        "Federation overview",
        "All sites and runs of a mesh: is it well, what is it doing?",
        (),
        {
            "Now": (
                number(
                    "Participants",
                    "Whether Prometheus reaches the server and the sites.",
                    "none",
                    Query(series("up", job="flaremesh"), "{{site}}"),
                    meanings=_UP,
                    width=8,
                ),
                number(
                    "Sites at the server",
                    "Sites that the server knows now.",
                    "none",
                    Query(each(series(AgentMetric.REGISTERED_SITES)), ""),
                ),
                number(
                    "Sites missing from runs",
                    "Sites that runs wait for, or go on without; an alert names them.",
                    "none",
                    Query(or_zero(f"count({missing})"), ""),
                    Step(0, GOOD),
                    Step(1, BAD),
                ),
                number(
                    "Runs going on",
                    "Runs that at least one site works on.",
                    "none",
                    Query(or_zero(f"count({running})"), ""),
                ),
                number(
                    "Alerts firing",
                    "Alerts of this mesh that fire now; they are listed below.",
                    "none",
                    Query(or_zero(f"count({series('ALERTS', alertstate='firing')})"), ""),
                    Step(0, GOOD),
                    Step(1, BAD),
                ),
                rows(
                    "Runs",
                    "The run in each slot, by its slowest site.",
                    "percentunit",
                    f"min by ({', '.join(columns)}) ({of_runs(state, 'site', *columns)})",
                    columns,
                    "progress",
                    width=15,
                ),
                rows(
                    "Alerts",
                    "What is pending or fires in this mesh; empty when all is well.",
                    "none",
                    each(series("ALERTS"), *_ALERT),
                    _ALERT,
                    width=9,
                ),
            ),
            "Learning": (
                lines(
                    "Loss",
                    "Loss on the last mini-batch.",
                    "none",
                    Query(_of_each(series(RunMetric.TRAIN_LOSS)), _EACH),
                ),
                lines(
                    "Accuracy",
                    "Accuracy of the last evaluation.",
                    "percentunit",
                    Query(_of_each(series(RunMetric.VALIDATION_ACCURACY)), _EACH),
                ),
                lines(
                    "Consensus distance",
                    "How far each site is from its neighbourhood's weighted mean.",
                    "none",
                    Query(_of_each(series(RunMetric.CONSENSUS_DISTANCE)), _EACH),
                    logarithmic=True,
                ),
                lines(
                    "Progress",
                    "Share of the iterations that the run shall do.",
                    "percentunit",
                    Query(_of_each(progress), _EACH),
                    width=24,
                ),
            ),
            "Exchanges": (
                lines(
                    "Messages sent",
                    "To all neighbours, resends included.",
                    "ops",
                    Query(sent, "{{site}}"),
                ),
                lines(
                    "Arrivals refused",
                    "Messages and connections that a site has not taken since its runs began.",
                    "none",
                    Query(f"{refused} or 0 * {sent}", "{{site}}"),
                ),
                lines(
                    "Waiting for neighbours",
                    "Time per iteration that a site waits for messages: 19 of 20 iterations wait less.",
                    "s",
                    Query(f"histogram_quantile(0.95, {waits})", _EACH),
                ),
            ),
            "Meeting point": (
                lines(
                    "Pairs that meet",
                    "Pairs of sites that are joined now, and connections that still wait for the other one.",
                    "none",
                    Query(each(series(AgentMetric.MEETING_PAIRS)), "joined"),
                    Query(each(series(AgentMetric.MEETING_WAITING)), "waiting"),
                ),
                lines(
                    "Passed on",
                    "Sealed bytes that it passes on, both ways.",
                    "Bps",
                    Query(each(rate(AgentMetric.MEETING_BYTES)), "passed on"),
                ),
                lines(
                    "Hung up on",
                    "Connections that it has refused since it began, by the reason.",
                    "none",
                    Query(or_zero(each(series(AgentMetric.MEETING_REFUSALS), "reason")), "{{reason}}"),
                ),
            ),
        },
    )


def _of_each(expression: str) -> str:
    return each(expression, "site", "slot")
