"""Following a run from attempt to attempt, as the one who submitted it or as somebody who comes later."""

import threading
from collections.abc import Callable
from pathlib import Path

from flaremesh.deploy.runs.connection import Connection
from flaremesh.deploy.runs.follow import (
    ABORTED_ELSEWHERE,
    END_SECONDS,
    abort,
    failed,
    follow,
    next_attempt,
)
from flaremesh.deploy.runs.gather import gather
from flaremesh.deploy.runs.known import KnownRun, find
from flaremesh.deploy.runs.results import RUNS, gathered_result, load_result, submitted_topology
from flaremesh.deploy.runs.session import ServerLost, UnknownRun
from flaremesh.deploy.targets.base import DeployError, Target
from flaremesh.metrics.names import RunState
from flaremesh.p2p.outcome import RUN_FOLDER, RunResult
from flaremesh.p2p.progress import RunProgress
from flaremesh.topology.schema import Topology


class LeftAlone(DeployError):
    """The run goes on, and is not followed any more."""

    exit_code = 130

    def __init__(self, run_id: str):
        super().__init__(
            f"the run {run_id} goes on: `flaremesh attach FILE {run_id}` follows it, and "
            f"`flaremesh abort FILE {run_id}` ends it"
        )
        self.run_id = run_id


def attach(
    topology: Topology,
    target: Target,
    mesh: Path,
    run_id: str | None,
    show: Callable[[str, RunProgress], None],
    stop: threading.Event,
    warn: Callable[[str], None],
) -> RunResult:
    """Follow a run that goes on, or has ended, and gather its results in ``mesh/runs/<run id>``.

    Args:
        topology: the mesh.
        target: where it is up.
        mesh: its folder.
        run_id: how the id of the run, or of one of its attempts, begins; None for the newest run.
        show: called with the run's id and the progress, a few times a second.
        stop: set it to leave the run alone.
        warn: called with what keeps the results from being complete.

    Raises:
        UnknownRun: neither the server nor this machine knows such a run.
        LeftAlone: ``stop`` was set before the end.
        DeployError: the server cannot be reached.
    """
    with Connection(topology, target, mesh) as connection:
        try:
            run = find(connection.session, run_id)
        except UnknownRun:
            if gone := gathered_result(mesh, run_id or ""):
                return gone
            raise
        folder = mesh / RUNS / run.run_id
        asked = submitted_topology(folder)
        connection.run = (asked or topology).run  # the file may have been changed since
        result, job = load_result(folder), run.last
        if result.outcome == "unfinished":
            result, job = follow_known(connection, target, run, job, show, stop, warn)
    return gathered(asked or as_told(topology, result), target, folder, run.name, result, warn, job)


def follow_known(
    connection: Connection,
    target: Target,
    run: KnownRun,
    job: str,
    show: Callable[[str, RunProgress], None],
    stop: threading.Event,
    warn: Callable[[str], None],
) -> tuple[RunResult, str]:
    """As `to_the_end`, for a run that is shown by its own id, and left alone once ``stop`` is set."""

    def show_run(attempt: str, progress: RunProgress) -> None:
        show(run.run_id, progress)

    return to_the_end(connection, target, run.run_id, job, show_run, stop, warn, lambda: True)


def to_the_end(
    connection: Connection,
    target: Target,
    run_id: str,
    job: str,
    show: Callable[[str, RunProgress], None],
    stop: threading.Event,
    warn: Callable[[str], None],
    leave: Callable[[], bool],
) -> tuple[RunResult, str]:
    """Follow a run until it ends; returns its result, and the id of its last attempt's job.

    Args:
        connection: to the server.
        target: where the mesh is up.
        run_id: id of the run.
        job: id of the attempt with which to begin.
        show: called with the attempt's id and the progress.
        stop: set it to follow the run no longer.
        warn: called with what was lost.
        leave: asked then whether the run goes on; if not, it is aborted.

    Raises:
        LeftAlone: it goes on.
        DeployError: the server cannot be reached.
    """
    aborts, told = False, ""
    while True:
        try:
            if stop.is_set() and not aborts:
                if leave():
                    raise LeftAlone(run_id)
                aborts = True
            if aborts:
                result = abort(connection.session, job)
                target.end_run(result.run_id, END_SECONDS)
                return result, result.run_id
            ended = follow(connection.session, job, show, stop)
            if ended is None:
                continue
            if not ended.lost:
                return ended, job
            if told != job and not ended.joining:
                without = ", or without who stays away" if connection.run.on_loss == "continue" else ""
                warn(f"{ended.reason}. The run goes on once all are back{without}.")
            told = job
            match next_attempt(connection.session, job, ended, stop):
                case str() as job:
                    pass
                case RunResult() as given_up:
                    return given_up, job
        except UnknownRun:
            return RunResult(job, RunState.ABORTED, reason=ABORTED_ELSEWHERE), job
        except ServerLost as error:
            if aborts and connection.patient:
                raise DeployError(
                    f"{error}. `flaremesh abort FILE {run_id}` ends the run once it does"
                ) from None
            if not aborts and connection.renew(run_id, stop, warn):
                continue
            if stop.is_set() and not aborts:
                continue
            target.end_run(job, 0)  # nobody is left to tell the sites
            return failed(job, str(error)), job


def gathered(
    topology: Topology,
    target: Target,
    folder: Path,
    name: str,
    result: RunResult,
    warn: Callable[[str], None],
    job: str,
) -> RunResult:
    """`gather`, with an error in words for a folder that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return gather(topology, target, folder, name, result, warn, job)
    except OSError as error:
        raise DeployError(
            f"the run {folder.name} {result.outcome}, and its result cannot be written into {folder}: "
            f"{error.strerror}. The sites keep it in {job}/{RUN_FOLDER} of their workspaces."
        ) from error


def as_told(topology: Topology, told: RunResult) -> Topology:
    """The topology with what is told of a run that was submitted elsewhere."""
    said = {"iterations": told.iterations, "algorithm": told.algorithm}
    run = topology.run.model_copy(update={field: value for field, value in said.items() if value})
    return topology.model_copy(update={"run": run})
