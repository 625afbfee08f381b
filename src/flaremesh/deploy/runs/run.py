"""A run: from submission to the folder with what it leaves behind."""

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

from flaremesh import atomic
from flaremesh.deploy.outdated import check_code, check_server, kits_in_use, older_than_kits, say_older
from flaremesh.deploy.runs.attach import LeftAlone, gathered, to_the_end
from flaremesh.deploy.runs.connection import Connection
from flaremesh.deploy.runs.follow import reason_of
from flaremesh.deploy.runs.results import RUNS, TOPOLOGY
from flaremesh.deploy.runs.session import AdminSession, ServerLost, UnknownRun
from flaremesh.deploy.targets.base import DeployError, Participant, Target
from flaremesh.metrics.names import RunState
from flaremesh.p2p.gate.approval import WAITS
from flaremesh.p2p.outcome import RunResult
from flaremesh.p2p.progress import RunProgress
from flaremesh.provision.job import write_job
from flaremesh.provision.plan import check
from flaremesh.topology.schema import Topology
from flaremesh.waiting import wait_while

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_INTERRUPTED = "interrupted before the run was submitted"
_READY_SECONDS = 15.0  # a site that was cut off is connected again within so long
_REGISTERED_SECONDS = (
    45.0  # and if the server has given it up, its next heartbeat, which registers it, has come
)
_BEGIN_SECONDS = 15.0  # a run that has not begun by then waits for others
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
    reconnect_seconds: float | None = None,
    leave: Callable[[], bool] = lambda: False,
    *,
    detach: bool = False,
    continues: str = "",
) -> RunResult:
    """Run ``topology.run`` and gather its results in ``mesh/runs/<run id>``.

    A run has the id of the job of its first attempt. While nothing keeps it out but sites where a person has
    not approved it yet, it is submitted again, until its order is too old for them.

    NVFlare's job processes end by themselves some seconds after a run that finished or failed; after any
    other end, this call waits for them.

    Args:
        topology: the mesh and its run.
        target: where the mesh is up.
        mesh: its folder.
        name: of the run, for people.
        show: called with the attempt's id and the progress, a few times a second.
        stop: set it to abort the run.
        warn: called with what keeps the results from being complete.
        reconnect_seconds: for how long a lost connection to the server is tried again; see Connection.
        leave: asked when ``stop`` is set whether the run goes on instead of being aborted.
        detach: leave the run alone as soon as it has begun, or waits behind others.
        continues: as in write_job.

    Raises:
        UnsoundRun, GraphError, MissingExtra, DeliveryError: the run makes no sense, or cannot travel.
        NotSubmitted: ``stop`` was set before the run began.
        LeftAlone: the run goes on.
        DeployError: a participant is not ready, or the server does not take the run; or the connection was
            lost for good, and the run goes on.
    """
    ready = _check(topology, target, mesh, warn, stop)
    with Connection(topology, target, mesh, reconnect_seconds) as connection:
        _await_registered(connection.session, [site.name for site in topology.sites], ready, stop)
        if stop.is_set():
            raise NotSubmitted(_INTERRUPTED)
        run_id, folder = _submit(connection.session, topology, mesh / RUNS, name, continues)
        waits, pause = "", _FIRST_PAUSE
        while True:
            submitted = time.monotonic()
            if detach and connection.ask(run_id, partial(_goes_on, job_id=run_id, stop=stop), stop):
                raise LeftAlone(run_id)
            result, last = to_the_end(connection, target, run_id, run_id, show, stop, warn, leave)
            if result.sites or not (told := _waits(connection, run_id, last, stop)):
                break
            if told != waits:
                warn(f"{told} It is submitted again until then; Ctrl-C gives it up.")
            waits, pause = told, min(pause * 1.5, _LONGEST_PAUSE)
            if stop.wait(pause):
                result = RunResult(run_id, RunState.ABORTED)
                break
            run_id, folder = connection.ask(run_id, partial(_submit_again, folder=folder), stop)
    result = replace(result, submit_to_result_seconds=time.monotonic() - submitted)
    return gathered(topology, target, folder, name, result, warn, last)


def _check(
    topology: Topology, target: Target, mesh: Path, warn: Callable[[str], None], stop: threading.Event
) -> Collection[str]:
    """Check that a run makes sense, and that this target's participants are ready; returns their names."""
    check(topology)
    check_server(topology, mesh)
    participants = _ready_participants(target, stop)
    in_use = kits_in_use(target, participants)
    check_code(topology, in_use)
    if older := older_than_kits(in_use, mesh):
        warn(say_older(older, mesh))
    return {participant.name for participant in participants if participant.ready}


def _await_registered(
    session: AdminSession, sites: Collection[str], ready: Collection[str], stop: threading.Event
) -> None:
    """Wait until the server knows all sites, as long as those that it lacks are ``ready`` by their own word.

    Raises:
        DeployError: it does not.
    """
    deadline = time.monotonic() + _REGISTERED_SECONDS
    while not stop.is_set():
        known = session.sites()
        if not (missing := [site for site in sites if site not in known]):
            return
        _require([site for site in missing if site not in ready])
        if time.monotonic() > deadline:
            raise DeployError(
                f"not registered: {', '.join(missing)}. It runs, and the server does not know it: "
                "`flaremesh doctor` says what keeps it from the server."
            )
        stop.wait(_POLL_SECONDS)


def _ready_participants(target: Target, stop: threading.Event) -> list[Participant]:
    """All participants; one that runs may just have lost the server, and be back in a moment.

    Raises:
        DeployError: some do not run, or have not become ready.
        NotSubmitted: ``stop`` was set meanwhile.
    """
    participants, deadline = target.participants(), time.monotonic() + _READY_SECONDS
    while late := [p for p in participants if not (p.ready or p.elsewhere)]:
        if time.monotonic() > deadline or not all(p.running for p in late):
            _require([p.name for p in late])
        if stop.wait(_POLL_SECONDS):
            raise NotSubmitted(_INTERRUPTED)
        participants = target.participants()
    return participants


def _goes_on(session: AdminSession, job_id: str, stop: threading.Event) -> bool:
    """Whether a job runs, or waits behind others; not if it has ended or been refused."""
    wait_while(
        lambda: not (session.job(job_id).begun or stop.is_set()),
        _BEGIN_SECONDS,
        _POLL_SECONDS,
    )
    return not (session.job(job_id).ended or stop.is_set())


def _require(missing: list[str]) -> None:
    if missing:
        raise DeployError(f"not ready: {', '.join(missing)}. `flaremesh up` starts who does not run.")


def _submit(
    session: AdminSession, topology: Topology, runs: Path, name: str, continues: str
) -> tuple[str, Path]:
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runs, prefix=".submit-") as staging:
        job = Path(staging) / "job"
        write_job(topology, job, name=name, continues=continues)
        run_id = session.submit(job)
        folder = runs / run_id
        folder.mkdir()
        job.rename(folder / "job")
        atomic.write(folder / TOPOLOGY, topology.model_dump_json())
    return run_id, folder


def _submit_again(session: AdminSession, folder: Path) -> tuple[str, Path]:
    """Submit the job of a run's folder once more: the same order, under NVFlare's next id."""
    run_id = session.submit(folder / "job")
    return run_id, folder.rename(folder.with_name(run_id))


def _waits(connection: Connection, run_id: str, job_id: str, stop: threading.Event) -> str:
    """Which sites have a person decide on a job, if that is all that keeps it out; else nothing."""
    try:
        job = connection.ask(run_id, lambda session: session.job(job_id), stop)
    except (ServerLost, UnknownRun):  # it has ended with the server, or was removed
        return ""
    waits = job.refusals and all(told.startswith(WAITS) for told in job.refusals.values())
    return reason_of(job) if waits else ""
