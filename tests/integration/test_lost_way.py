"""The way from the admin's machine to the server breaks, and the mesh is well."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from running_mesh import RunningMesh, running_mesh, wait_until

from flaremesh.deploy.runs import run as runs
from flaremesh.deploy.runs.connection import RECONNECT_SECONDS
from flaremesh.deploy.targets.base import Address, DeployError
from flaremesh.deploy.targets.local import LocalTarget
from flaremesh.p2p.progress import RunProgress

FORWARD = Path(__file__).parent / "forward.py"
ENDLESS = 10**7


class ForwardedTarget(LocalTarget):
    """Reaches the server through a process that can be killed, as the Kubernetes target does.

    Attributes:
        forwards: all that were started.
        blocked: no further one can be.
    """

    def __init__(self, mesh: RunningMesh):
        super().__init__(mesh.topology, mesh.folder)
        self._port = mesh.topology.server.port
        self.forwards: list[subprocess.Popen[str]] = []
        self.blocked = False

    @contextmanager
    def server(self) -> Iterator[Address]:
        if self.blocked:
            raise DeployError("the cluster cannot be reached")
        command = [sys.executable, str(FORWARD), str(self._port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forward:
            self.forwards.append(forward)
            assert forward.stdout
            try:
                yield "localhost", int(forward.stdout.readline())
            finally:
                forward.kill()


class WatchedRun:
    """An endless run through a forward, in a thread.

    Args:
        mesh: where.
        reconnect_seconds: for how long a lost way is looked for.
    """

    def __init__(self, mesh: RunningMesh, reconnect_seconds: float):
        self.target = ForwardedTarget(mesh)
        self.stop = threading.Event()
        self.run_id = ""
        self.iteration = 0
        endless = mesh.topology.run.model_copy(update={"iterations": ENDLESS})
        topology = mesh.topology.model_copy(update={"run": endless})
        self._pool = ThreadPoolExecutor(1)
        self.result = self._pool.submit(
            runs.run,
            topology,
            self.target,
            mesh.folder,
            "endless",
            self._show,
            self.stop,
            reconnect_seconds=reconnect_seconds,
        )

    def _show(self, run_id: str, progress: RunProgress) -> None:
        self.run_id = run_id
        self.iteration = min((site.iteration for site in progress.sites.values()), default=0)

    def goes_on_from(self, iteration: int) -> bool:
        """It is seen beyond that iteration."""
        assert not self.result.done(), self.result.result()
        return self.iteration > iteration


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    with running_mesh(tmp_path_factory.mktemp("mesh")) as mesh:
        yield mesh


@pytest.fixture
def watched(mesh: RunningMesh, request: pytest.FixtureRequest) -> Iterator[WatchedRun]:
    run = WatchedRun(mesh, getattr(request, "param", RECONNECT_SECONDS))
    wait_until(lambda: run.goes_on_from(0), 60)
    yield run
    run.stop.set()
    run.result.exception()
    mesh.target.end_run(run.run_id, 0)


def test_a_run_goes_on_and_is_watched_again_when_the_way_to_the_server_broke(
    mesh: RunningMesh, watched: WatchedRun
) -> None:
    job = mesh.job_process("bonn", watched.run_id)
    watched.target.forwards[0].kill()
    wait_until(lambda: len(watched.target.forwards) > 1, 60)
    before = watched.iteration
    wait_until(lambda: watched.goes_on_from(before), 60)
    assert job.is_running()
    watched.stop.set()
    assert watched.result.result().outcome == "aborted"


@pytest.mark.parametrize("watched", [1.0], indirect=True)
def test_a_run_whose_server_stays_out_of_reach_is_left_alone(mesh: RunningMesh, watched: WatchedRun) -> None:
    watched.target.blocked = True
    watched.target.forwards[0].kill()
    with pytest.raises(DeployError, match=rf"cluster cannot be reached.*{watched.run_id} was left alone"):
        watched.result.result(60)
    assert mesh.job_process("bonn", watched.run_id).is_running()
