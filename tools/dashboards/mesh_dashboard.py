"""What surrounds the panels of every dashboard: variables, links, and when runs went on."""

from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from flaremesh.metrics.names import AgentMetric, RunMetric, RunState
from tools.dashboards.panels import DATASOURCE, Panel
from tools.dashboards.queries import of_runs, series

TAG = "flaremesh"


def mesh_dashboard(
    name: str,
    title: str,
    description: str,
    variables: Sequence[QueryVariable],
    rows: Mapping[str, Sequence[Panel]],
) -> Dashboard:
    """A dashboard of one mesh.

    Args:
        name: of its file, and part of its ``uid``, which bookmarks and links use.
        title: as readers see it.
        description: what question it answers.
        variables: what readers choose besides the mesh.
        rows: its panels by the title of the row that they stand in.
    """
    board = (
        Dashboard(f"flaremesh / {title}")
        .uid(f"flaremesh-{name}")
        .description(description)
        .tags([TAG])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-15m", "now")
        .refresh("10s")
        .link(
            DashboardLink("flaremesh")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .annotation(_runs())
    )
    for variable in (_mesh(), *variables):
        board.with_variable(variable)
    for heading, panels in rows.items():
        board.with_row(Row(heading))
        for panel in panels:
            board.with_panel(panel)
    return board


def chosen_run() -> QueryVariable:
    """The run, the newest first."""
    latest = of_runs(series(RunMetric.LAST_ITERATION), "run_id")
    query = f"query_result(sort_desc(max by (run_id) (max_over_time(({latest})[$__range:]))))"
    return _variable("run", "Run", query).regex('/run_id="([^"]+)"/')


def chosen_sites(metric: RunMetric | AgentMetric) -> QueryVariable:
    """Some or all of the participants that have a metric."""
    return (
        _variable("site", "Site", f"label_values({series(metric)}, site)")
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(selected=True, text="All", value="$__all"))
    )


def _mesh() -> QueryVariable:
    query = f"label_values({AgentMetric.BUILD_INFO.value.full_name}, mesh)"
    return _variable("mesh", "Mesh", query).sort(VariableSort.ALPHABETICAL_ASC)


def _runs() -> AnnotationQuery:
    """Shading of the times in which a run went on."""
    running = of_runs(f"({series(RunMetric.STATE, state=RunState.RUNNING)} == 1)", "run_id")
    return (
        AnnotationQuery()
        .name("Runs")
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color("blue")
        .expr(running)
        .title_format("run {{run_id}}")
    )


def _variable(name: str, label: str, query: str) -> QueryVariable:
    return (
        QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    )
