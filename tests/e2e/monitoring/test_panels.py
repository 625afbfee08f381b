"""Every query of every panel, asked as Grafana does, finds something while a run goes on."""

import time

import pytest
from cluster import wait_until
from installed_mesh import Mesh
from runs import SPENDING, dial_as_a_stranger, running
from watching import Watching

from grafana import Board, Grafana, Query, boards

SHOWN = 60.0  # seconds

QUERIES = [
    pytest.param(board, query, id=f"{name}: {panel.title} {number}")
    for name, board in boards().items()
    for panel in board.panels
    for number, query in enumerate(panel.queries)
]


@pytest.fixture(scope="module")
def grafana(mesh: Mesh, prometheus: Watching) -> Grafana:
    """Asks for what there was to be seen during a run with a refused connection, which raises an alert."""
    with running(mesh, "watched") as run_id:
        dial_as_a_stranger(mesh, "aachen")
        wait_until(lambda: prometheus.firing("FlareMeshConnectionsRefused"), 30)
        info = f'flaremesh_run_info{{run_id="{run_id}"}}'
        # the last of what is recorded: it looks back
        wait_until(
            lambda: prometheus.query(f"mesh:flaremesh_contraction:ratio1m and on (mesh, slot) {info}"), 60
        )
        given = {"mesh": mesh.topology.name, "run": run_id}
        return Grafana(prometheus, SHOWN, given, end=time.time())


@pytest.fixture(scope="module")
def spending(mesh: Mesh, prometheus: Watching) -> Grafana:
    """Asks for what there was to be seen during a run with a privacy budget."""
    with running(mesh, "spending", **SPENDING) as run_id:
        info = f'flaremesh_run_info{{run_id="{run_id}"}}'
        wait_until(
            lambda: prometheus.query(f"flaremesh_privacy_epsilon_spent and on (mesh, site, slot) {info}"), 60
        )
        given = {"mesh": mesh.topology.name, "run": run_id}
        return Grafana(prometheus, SHOWN, given, end=time.time())


@pytest.mark.parametrize(("board", "query"), QUERIES)
def test_a_query_finds_something(board: Board, query: Query, request: pytest.FixtureRequest):
    of_a_budget = "flaremesh_privacy_epsilon_" in query.expr
    grafana: Grafana = request.getfixturevalue("spending" if of_a_budget else "grafana")
    found = grafana.ask(query, grafana.choices(board))
    assert found.samples or any(curve.values.size for curve in found.curves)
