"""A run: from submission to the folder with what it leaves behind."""

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from flaremesh.deploy.outdated import check_code, check_server, kits_in_use, older_than_kits, say_older
from flaremesh.deploy.runs.follow import END_SECONDS, abort, failed, follow, next_attempt, reason_of
from flaremesh.deploy.runs.gather import gather
from flaremesh.deploy.runs.session import AdminSession, ServerLost, connect
from flaremesh.deploy.targets.base import DeployError, Target
from flaremesh.metrics.names import RunState
from flaremesh.p2p.gate.approval import WAITS
from flaremesh.p2p.nvflare.jobs import Job
from flaremesh.p2p.outcome import RUN_FOLDER, RunResult
from flaremesh.p2p.progress import RunProgress
from flaremesh.provision.job import write_job
from flaremesh.provision.plan import check
from flaremesh.topology.schema import Topology

_log = logging.getLogger(__name__)

RECONNECT_SECONDS = 60.0  # for a laptop that wakes up, or a VPN that comes back
_RETRY_SECONDS = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 30.0  # before a run that waits for approval is submitted again


class NotSubmitted(DeployError):
    """The run was aborted before it was submitted."""

    exit_code = 130


def run(
    topology: Topology,
    target: Target,
    mesh: Path,
    name: str,
    show: Callable[[str, RunProgress], None],
    stop: threading.Event,
    warn: Callable[[str], None] = _log.warning,
    reconnect_seconds: float = RECONNECT_SECONDS,
) -> RunResult:
    """Run ``topology.run`` and gather its results in ``mesh/runs/<run id>``.

    While nothing keeps the run out but sites where a person has not approved it yet, it is submitted again,
    until its order is too old for them.

    NVFlare's job processes end by themselves some seconds after a run that finished or failed; after any
    other end, this call waits for them.

    Args:
        topology: the mesh and its run.
        target: where the mesh is up.
        mesh: its folder.
        name: of the run, for people.
        show: called with the run id and the progress, a few times a second.
        stop: set it to abort the run.
        warn: called with what keeps the results from being complete.
        reconnect_seconds: for how long a lost connection to the server is tried again.

    Raises:
        UnsoundRun, GraphError, MissingExtra, DeliveryError: the run makes no sense, or cannot travel.
        NotSubmitted: ``stop`` was set before the run began.
        DeployError: a participant is not ready, or the server does not take the run; or the connection was
            lost for good, and the run goes on.
    """
    check(topology)
    check_server(topology, mesh)
    participants = target.participants()
    _require([p.name for p in participants if not (p.ready or p.elsewhere)])
    in_use = kits_in_use(target, participants)
    check_code(topology, in_use)
    if older := older_than_kits(in_use, mesh):
        warn(say_older(older, mesh))
    with ExitStack() as connection:
        session = connection.enter_context(_connected(topology, target, mesh))
        registered = session.sites()
        _require([site.name for site in topology.sites if site.name not in registered])
        if stop.is_set():
            raise NotSubmitted("interrupted before the run was submitted")
        run_id, folder = _submit(session, topology, mesh / "runs", name)
        submitted = time.monotonic()
        waits, pause = "", _FIRST_PAUSE
        result = None
        while result is None:
            try:
                result = follow(session, run_id, show, stop)
                if result is None:
                    result = abort(session, run_id)
                    target.end_run(run_id, END_SECONDS)
                elif result.lost:
                    warn(f"{result.reason}. The run goes on once all are back; Ctrl-C ends it.")
                    match next_attempt(session, run_id, result, stop):
                        case str() as run_id:
                            folder, result = folder.rename(folder.with_name(run_id)), None
                        case ended:
                            result = ended
                elif not result.sites and (told := _waits(session.job(run_id))):
                    if told != waits:
                        warn(f"{told} It is submitted again until then; Ctrl-C gives it up.")
                    waits, pause = told, min(pause * 1.5, _LONGEST_PAUSE)
                    if stop.wait(pause):
                        result = RunResult(run_id, RunState.ABORTED)
                    else:
                        run_id, folder = _submit_again(session, folder)
                        submitted, result = time.monotonic(), None
            except ServerLost as error:
                connection.close()
                deadline = time.monotonic() + reconnect_seconds
                again = _reconnect(connection, topology, target, mesh, run_id, stop, deadline)
                if again:
                    session = again
                else:
                    result = failed(run_id, str(error))
                    target.end_run(run_id, 0)  # nobody is left to tell the sites
        result = replace(result, submit_to_result_seconds=time.monotonic() - submitted)
    try:
        return gather(topology, target, folder, name, result, warn)
    except OSError as error:
        raise DeployError(
            f"the run {run_id} {result.outcome}, and its result cannot be written into {folder}: "
            f"{error.strerror}. The sites keep it in {run_id}/{RUN_FOLDER} of their workspaces."
        ) from error


@contextmanager
def _connected(topology: Topology, target: Target, mesh: Path) -> Iterator[AdminSession]:
    with target.server() as server, connect(topology, mesh, server) as session:
        yield session


def _reconnect(
    connection: ExitStack,
    topology: Topology,
    target: Target,
    mesh: Path,
    run_id: str,
    stop: threading.Event,
    deadline: float,
) -> AdminSession | None:
    """A new session in place of a lost one; None if the server does not run, or ``stop`` is set.

    Raises:
        DeployError: there is none before ``deadline``.
    """
    while not stop.is_set():
        try:
            server = target.participants()[0]
            if not (server.running or server.elsewhere):
                return None
            session = connection.enter_context(_connected(topology, target, mesh))
            session.job(run_id)
            return session
        except DeployError as error:
            connection.close()
            if time.monotonic() > deadline:
                raise DeployError(
                    f"the server cannot be reached from here any more: {error}. The run {run_id} was left "
                    "alone: `flaremesh status` shows whether it goes on, and the sites keep its results."
                ) from None
        stop.wait(_RETRY_SECONDS)
    return None


def _require(missing: list[str]) -> None:
    if missing:
        raise DeployError(f"not ready: {', '.join(missing)}. `flaremesh up` starts who does not run.")


def _submit(session: AdminSession, topology: Topology, runs: Path, name: str) -> tuple[str, Path]:
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runs, prefix=".submit-") as staging:
        job = Path(staging) / "job"
        write_job(topology, job, name=name)
        run_id = session.submit(job)
        folder = runs / run_id
        folder.mkdir()
        job.rename(folder / "job")
    return run_id, folder


def _submit_again(session: AdminSession, folder: Path) -> tuple[str, Path]:
    """Submit the job of a run's folder once more: the same order, under NVFlare's next id."""
    run_id = session.submit(folder / "job")
    return run_id, folder.rename(folder.with_name(run_id))


def _waits(job: Job) -> str | None:
    """Which sites have a person decide on a job, if that is all that keeps it out; None if it is not."""
    if job.refusals and all(told.startswith(WAITS) for told in job.refusals.values()):
        return reason_of(job)
    return None
