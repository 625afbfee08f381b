"""Run: does it learn, do the sites agree as fast as theory says, and where does the time go?"""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from flaremesh.metrics.names import RunMetric
from tools.dashboards.mesh_dashboard import chosen_run, chosen_sites, mesh_dashboard
from tools.dashboards.panels import Query, lines, number
from tools.dashboards.queries import (
    CONTRACTION,
    DISTANCE,
    EXPECTED_DISTANCE,
    PHASE_SECONDS,
    PREDICTED_CONTRACTION,
    of_run,
    per_iteration,
    rate,
    recorded_of_run,
    series,
    total,
)


def dashboard() -> Dashboard:
    """One run at all of its sites."""
    done, asked = series(RunMetric.CURRENT_ITERATION), series(RunMetric.MAX_ITERATIONS)
    spent, budget = series(RunMetric.EPSILON_SPENT), series(RunMetric.EPSILON_BUDGET)
    return mesh_dashboard(
        "run",
        "Run",
        "One run: does it learn, do its sites agree as fast as theory says, and where does its time go?",
        (chosen_run(), chosen_sites(RunMetric.INFO)),
        {
            "Now": (
                number(
                    "State",
                    "Where the run is; several states where sites differ.",
                    "none",
                    Query(of_run(f"({series(RunMetric.STATE)} == 1)", "state"), "{{state}}"),
                    name_only=True,
                ),
                number(
                    "Progress",
                    "Share of the iterations that the slowest site has finished.",
                    "percentunit",
                    Query(f"min({of_run(f'({done} / {asked})', 'site')})", ""),
                ),
                number(
                    "Iterations per second",
                    "Of the slowest site.",
                    "none",
                    Query(f"min({of_run(rate(RunMetric.ITERATIONS), 'site')})", ""),
                ),
                number(
                    "Spectral gap",
                    "1 less the factor by which an iteration of mixing alone multiplies disagreement.",
                    "none",
                    Query(f"1 - {recorded_of_run(PREDICTED_CONTRACTION)}", ""),
                ),
                number(
                    "Step size",
                    "The algorithm's.",
                    "none",
                    Query(of_run(series(RunMetric.STEP_SIZE)), ""),
                ),
                number(
                    "Non-finite values",
                    "Iterations with a NaN or infinite loss or distance, of all sites.",
                    "none",
                    Query(total(of_run(series(RunMetric.NON_FINITE), "site")), ""),
                ),
            ),
            "Learning": (
                lines(
                    "Loss",
                    "Of the last evaluation.",
                    "none",
                    Query(of_run(series(RunMetric.VALIDATION_LOSS), "site"), "{{site}}"),
                ),
                lines(
                    "Training loss",
                    "On the last mini-batch.",
                    "none",
                    Query(of_run(series(RunMetric.TRAIN_LOSS), "site"), "{{site}}"),
                ),
                lines(
                    "Accuracy",
                    "Of the last evaluation.",
                    "percentunit",
                    Query(of_run(series(RunMetric.VALIDATION_ACCURACY), "site"), "{{site}}"),
                ),
            ),
            "Agreement": (
                lines(
                    "Consensus distance",
                    "‖X − WX‖ over all sites. What sites add to the mix drives them apart, mixing pulls them "
                    "together: the distance falls until it is below the level that theory expects of both.",
                    "none",
                    Query(recorded_of_run(DISTANCE), "measured"),
                    Query(recorded_of_run(EXPECTED_DISTANCE), "expected level"),
                    width=12,
                    logarithmic=True,
                ),
                lines(
                    "Contraction per iteration",
                    "Factor by which an iteration multiplies the consensus distance, over a minute: about as "
                    "predicted while the distance is far above its expected level, about 1 once there.",
                    "none",
                    Query(recorded_of_run(CONTRACTION), "measured"),
                    Query(recorded_of_run(PREDICTED_CONTRACTION), "predicted for mixing alone"),
                    width=12,
                ),
                lines(
                    "Consensus distance by site",
                    "Norm of a site's value minus its neighbourhood's weighted mean.",
                    "none",
                    Query(of_run(series(RunMetric.CONSENSUS_DISTANCE), "site"), "{{site}}"),
                    logarithmic=True,
                ),
                lines(
                    "Innovation",
                    "Norm of what a site added to its neighbourhood's weighted mean.",
                    "none",
                    Query(of_run(series(RunMetric.INNOVATION_NORM), "site"), "{{site}}"),
                    logarithmic=True,
                ),
                lines(
                    "Gradient",
                    "Norm of a site's gradient.",
                    "none",
                    Query(of_run(series(RunMetric.GRADIENT_NORM), "site"), "{{site}}"),
                    logarithmic=True,
                ),
            ),
            "Privacy": (
                lines(
                    "Privacy budget",
                    "Share of its ε that the run has spent of each site's data; the run ends at 1.",
                    "percentunit",
                    Query(of_run(f"({spent} / {budget})", "site"), "{{site}}"),
                ),
                lines(
                    "ε",
                    "That the run has spent of each site's data.",
                    "none",
                    Query(of_run(spent, "site"), "{{site}}"),
                ),
            ),
            "Time": (
                lines(
                    "Time per iteration",
                    "Mean over the sites, by phase.",
                    "s",
                    Query(per_iteration(PHASE_SECONDS, "phase"), "{{phase}}"),
                    width=12,
                    stacked=True,
                ),
                lines(
                    "Pace",
                    "Iterations per second; sites that mix with each other go at one pace.",
                    "none",
                    Query(of_run(rate(RunMetric.ITERATIONS), "site"), "{{site}}"),
                    width=12,
                ),
            ),
        },
    )
