"""Site: is a participant well, and what does it spend its time and bytes on?"""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from flaremesh.metrics.names import AgentMetric, RunMetric
from tools.dashboards.mesh_dashboard import chosen_run, chosen_sites, mesh_dashboard
from tools.dashboards.panels import BAD, GOOD, WARN, Meaning, Query, Step, lines, number
from tools.dashboards.queries import PHASE_SECONDS, each, of_run, per_iteration, rate, series, total

_SECONDS_A_DAY = 86400
_READY = {1: Meaning("ready", GOOD), 0: Meaning("not ready", BAD)}


def dashboard() -> Dashboard:
    """The participants of a mesh, the server included, and what the chosen run costs its sites."""
    expiry = each(series(AgentMetric.CERTIFICATE_EXPIRY, site="$site"), "site")
    free = each(series(AgentMetric.WORKSPACE_FREE, site="$site"), "site")
    size = each(series(AgentMetric.WORKSPACE_SIZE, site="$site"), "site")
    return mesh_dashboard(
        "site",
        "Site",
        "A participant: is it well, and what does a run cost it?",
        (chosen_run(), chosen_sites(AgentMetric.BUILD_INFO)),
        {
            "Now": (
                number(
                    "Ready",
                    "Whether it could take part in a run.",
                    "none",
                    Query(each(series(AgentMetric.READY, site="$site"), "site"), "{{site}}"),
                    meanings=_READY,
                    width=12,
                ),
                number(
                    "Running jobs",
                    "Jobs whose process runs there.",
                    "none",
                    Query(each(series(AgentMetric.RUNNING_JOBS, site="$site"), "site"), "{{site}}"),
                    width=12,
                ),
                number(
                    "Certificate, days left",
                    "After that its neighbours and the server refuse it.",
                    "none",
                    Query(f"({expiry} - time()) / {_SECONDS_A_DAY}", "{{site}}"),
                    Step(0, BAD),
                    Step(7, WARN),
                    Step(30, GOOD),
                    width=8,
                ),
                number(
                    "Workspace free",
                    "Share of the file system that holds runs and models.",
                    "percentunit",
                    Query(f"{free} / {size}", "{{site}}"),
                    Step(0, BAD),
                    Step(0.1, WARN),
                    Step(0.2, GOOD),
                    width=8,
                ),
                number(
                    "Non-finite values",
                    "Iterations of the run with a NaN or infinite loss or distance.",
                    "none",
                    Query(of_run(series(RunMetric.NON_FINITE), "site"), "{{site}}"),
                    Step(0, GOOD),
                    Step(1, BAD),
                    width=8,
                ),
            ),
            "Time": (
                lines(
                    "Time per iteration by phase",
                    "What an iteration of each site is spent on.",
                    "s",
                    Query(per_iteration(PHASE_SECONDS, "site", "phase"), "{{site}} {{phase}}"),
                    width=12,
                ),
                lines(
                    "Waiting by neighbour",
                    "Time per iteration until the neighbour's message was there.",
                    "s",
                    Query(
                        per_iteration(RunMetric.NEIGHBOR_WAIT, "site", "peer"),
                        "{{site}} for {{peer}}",
                    ),
                    width=12,
                ),
            ),
            "Bytes": (
                lines(
                    "Sent",
                    "Payload to all neighbours, resends included.",
                    "Bps",
                    Query(total(of_run(rate(RunMetric.SENT_BYTES), "site", "peer"), "site"), "{{site}}"),
                ),
                lines(
                    "Received",
                    "Payload from all neighbours.",
                    "Bps",
                    Query(total(of_run(rate(RunMetric.RECEIVED_BYTES), "site", "peer"), "site"), "{{site}}"),
                ),
                lines(
                    "Workspace",
                    "What the participant may still write.",
                    "decbytes",
                    Query(free, "{{site}}"),
                ),
            ),
        },
    )
