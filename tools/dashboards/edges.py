"""Edges: who waits for whom, what carries the messages, and how much of them?"""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from flaremesh.metrics.names import RunMetric
from flaremesh.topology.links import Carried
from tools.dashboards.mesh_dashboard import chosen_run, chosen_sites, mesh_dashboard
from tools.dashboards.panels import GOOD, PLAIN, WARN, Meaning, Query, lines, matrix
from tools.dashboards.queries import of_run, per_iteration, rate, series, total

_CARRIER = {
    0: Meaning("direct", GOOD),
    1: Meaning("dialled back", GOOD),
    2: Meaning("met", PLAIN),
    3: Meaning("relayed", PLAIN),
    6: Meaning("met, better wanted", WARN),
    7: Meaning("relayed, better wanted", WARN),
}


def dashboard() -> Dashboard:
    """The edges of one run."""
    # a run's counters begin with it: their quotients are its means, whatever time is shown
    waited = per_iteration(RunMetric.NEIGHBOR_WAIT, "site", "peer", of=series)
    carried = [f"{code} * {series(RunMetric.LINK, kind=word)}" for code, word in enumerate(Carried)]
    carrier = " + ignoring (kind) ".join([*carried, f"4 * {series(RunMetric.WORSE_LINK)}"])
    # not its rate: a series begins with its first refusal, of which a rate sees nothing
    refused = total(of_run(series(RunMetric.EXCHANGE_FAILURES), "site", "peer", "reason"), "site", "reason")
    sent = of_run(rate(RunMetric.EXCHANGE_ATTEMPTS), "site")
    links = of_run(series(RunMetric.WORSE_LINK), "site", "peer")
    changes = total(of_run(series(RunMetric.CARRIER_CHANGES), "site", "peer", "kind"), "site", "peer")
    return mesh_dashboard(
        "edges",
        "Edges",
        "The edges of a run: who waits for whom, what carries messages, how much?",
        (chosen_run(), chosen_sites(RunMetric.INFO)),
        {
            "Matrices": (
                matrix(
                    "Who waits for whom",
                    "Mean time per iteration until a neighbour's (column) message was at a site (row).",
                    "s",
                    waited,
                ),
                matrix(
                    "Mixing weights",
                    "The weight of a neighbour (column) in a site's (row) mix.",
                    "none",
                    of_run(series(RunMetric.MIXING_WEIGHT), "site", "peer"),
                ),
                matrix(
                    "Sent",
                    "What a site (row) has sent a neighbour (column) in the run, resends included.",
                    "decbytes",
                    of_run(series(RunMetric.SENT_BYTES), "site", "peer"),
                ),
                matrix(
                    "Link",
                    "How a site's (row) messages to a neighbour (column) travel.",
                    "none",
                    of_run(f"({carrier})", "site", "peer"),
                    meanings=_CARRIER,
                ),
            ),
            "Over time": (
                lines(
                    "Waiting",
                    "Time per iteration until the neighbour's message was there.",
                    "s",
                    Query(per_iteration(RunMetric.NEIGHBOR_WAIT, "site", "peer"), "{{site}} for {{peer}}"),
                ),
                lines(
                    "Bytes",
                    "Payload that goes over each edge.",
                    "Bps",
                    Query(of_run(rate(RunMetric.SENT_BYTES), "site", "peer"), "{{site}} to {{peer}}"),
                ),
                lines(
                    "Clipped",
                    "Share of what a neighbour sends that is clipped: 90 % where it is ten times too far.",
                    "percentunit",
                    Query(per_iteration(RunMetric.CLIPPED, "site", "peer"), "{{peer}} by {{site}}"),
                ),
                lines(
                    "Arrivals refused",
                    "Messages and connections that a site has not taken since the run began, by the reason.",
                    "none",
                    Query(
                        f"{refused} or on (site) 0 * {sent}",
                        "{{site}} {{reason}}",
                    ),
                ),
                lines(
                    "Changes of the way",
                    "How often what a neighbour sends came to travel in another way since the run began.",
                    "none",
                    Query(f"{changes} or on (site, peer) 0 * {links}", "{{peer}} to {{site}}"),
                ),
            ),
        },
    )
