"""Every query of every panel, asked as Grafana does, finds something while a run goes on."""

import time

import pytest
from cluster import wait_until
from installed_mesh import Mesh
from runs import dial_as_a_stranger, running
from watching import Watching

from flaremesh.deploy.reports.boards import Board, Target, boards
from flaremesh.deploy.reports.live import Reader

SHOWN = 60.0  # seconds

QUERIES = [
    pytest.param(board, target, id=f"{name}: {panel.title} {number}")
    for name, board in boards().items()
    for panel in board.panels
    for number, target in enumerate(panel.targets)
]


@pytest.fixture(scope="module")
def reader(mesh: Mesh, prometheus: Watching) -> Reader:
    """Reads what there was to be seen during a run with a refused connection, which raises an alert."""
    with running(mesh, "watched") as run_id:
        dial_as_a_stranger(mesh, "aachen")
        wait_until(lambda: prometheus.firing("FlareMeshConnectionsRefused"), 30)
        info = f'flaremesh_run_info{{run_id="{run_id}"}}'
        # the last of what is recorded: it looks back
        wait_until(
            lambda: prometheus.query(f"mesh:flaremesh_contraction:ratio1m and on (mesh, slot) {info}"), 60
        )
        given = {"mesh": mesh.topology.name, "run": run_id}
        return Reader(prometheus, SHOWN, given, end=time.time())


@pytest.mark.parametrize(("board", "target"), QUERIES)
def test_a_query_finds_something(board: Board, target: Target, reader: Reader):
    reading = reader.ask(target, reader.choices(board))
    assert reading.samples or any(curve.values.size for curve in reading.curves)
