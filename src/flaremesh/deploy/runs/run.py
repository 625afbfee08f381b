"""A run: from submission to the folder with what it leaves behind."""

import logging
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from flaremesh import atomic
from flaremesh.deploy.outdated import check_code, check_server, kits_in_use, older_than_kits, say_older
from flaremesh.deploy.runs.session import AdminSession, ServerLost, connect
from flaremesh.deploy.targets.base import DeployError, Target
from flaremesh.metrics.names import RunState
from flaremesh.p2p.gate.approval import WAITS
from flaremesh.p2p.nvflare.jobs import Job
from flaremesh.p2p.outcome import RESULT, RUN_FOLDER, RUN_RESULT, Graph, RunResult, SiteResult
from flaremesh.p2p.progress import RunProgress
from flaremesh.printable import printable
from flaremesh.provision.job import write_job
from flaremesh.provision.plan import check
from flaremesh.record import RecordError
from flaremesh.runtime.history import HISTORY, History
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import Topology
from flaremesh.waiting import wait_while

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_SILENCE_SECONDS = 10.0  # a server that does not answer for longer is lost
RECONNECT_SECONDS = 60.0  # for a laptop that wakes up, or a VPN that comes back
_RETRY_SECONDS = 1.0
_NOTE_SECONDS = 1.0  # for the server's agent to write why a job failed
_END_SECONDS = 15.0  # NVFlare kills a job process 10 s after it was told to end
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 30.0  # before a run that waits for approval is submitted again
_ABORTED_ELSEWHERE = "aborted from elsewhere, by `flaremesh down` or another admin"


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
                result = _follow(session, run_id, show, stop)
                if result is None:
                    result = _abort(session, run_id)
                    target.end_run(run_id, _END_SECONDS)
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
                    result = _failed(run_id, str(error))
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
        return _reason(job)
    return None


def _follow(
    session: AdminSession, run_id: str, show: Callable[[str, RunProgress], None], stop: threading.Event
) -> RunResult | None:
    """Watch a run until it has a result; returns None if ``stop`` was set before.

    The controller has the result seconds before NVFlare ends the job.
    """
    heard = time.monotonic()
    while not stop.wait(_POLL_SECONDS):
        progress = session.progress(run_id)
        if progress:
            show(run_id, progress)
            if progress.result:
                return _explained(session, run_id, progress.result)
        try:
            if not progress and session.job(run_id).ended:
                return _ended(session, run_id)
            heard = time.monotonic()
        except ServerLost:
            if time.monotonic() - heard > _SILENCE_SECONDS:
                raise
    return None


def _abort(session: AdminSession, run_id: str) -> RunResult:
    told = _downloaded(session, run_id) if session.abort(run_id, _END_SECONDS) else None
    return replace(told or RunResult(run_id, RunState.ABORTED), outcome=RunState.ABORTED, reason=None)


def _ended(session: AdminSession, run_id: str) -> RunResult:
    """The result of a job that has ended, or the reason why it left none."""
    result = _downloaded(session, run_id)
    if result:
        return _explained(session, run_id, result)
    return _failed(run_id, _first_failure(session, run_id) or _reason(session.job(run_id)))


def _downloaded(session: AdminSession, run_id: str) -> RunResult | None:
    """The result that the server keeps; one that cannot be read is a failure with that reason."""
    try:
        kept = session.download(run_id, f"{RUN_FOLDER}/{RESULT}")
        return RUN_RESULT.read(kept, f"what the server keeps of the run {run_id}") if kept else None
    except ServerLost:
        raise
    except (RecordError, DeployError) as error:
        return _failed(run_id, str(error))


def _explained(session: AdminSession, run_id: str, result: RunResult) -> RunResult:
    """The result, with a reason where NVFlare told the controller to end without one.

    It does so when a job process dies before its site begins, when the server stops, and when another admin
    aborts the run.
    """
    if result.outcome != RunState.ABORTED or result.reason:
        return result
    if reason := _first_failure(session, run_id):
        return replace(result, outcome=RunState.FAILED, reason=reason)
    return replace(result, reason=_ABORTED_ELSEWHERE)


def _first_failure(session: AdminSession, run_id: str) -> str | None:
    """A reason that names the site whose process failed first, which the server's agent writes at the end."""
    session.wait(run_id, _END_SECONDS)
    wait_while(lambda: session.job(run_id).first_failure is None, _NOTE_SECONDS, _POLL_SECONDS)
    site = session.job(run_id).first_failure
    return site and f"{site}: the job process ended before the run began; killed, or out of memory"


def _failed(run_id: str, reason: str) -> RunResult:
    return RunResult(run_id, RunState.FAILED, reason=reason)


def _reason(job: Job) -> str:
    """Why a job left no result, from what NVFlare noted when it deployed and scheduled it."""
    if job.refusals:
        return why_refused(job)
    details = [detail for detail in job.details if not detail.endswith(": OK")]
    return f"NVFlare ended the job with {job.status}" + (f": {'; '.join(details)}" if details else "")


def why_refused(job: Job) -> str:
    """Each reason for which sites did not take a job in, behind the names of these sites."""
    sites: defaultdict[str, list[str]] = defaultdict(list)
    for site, told in job.refusals.items():
        sites[printable(told)].append(printable(site))
    return ". ".join(f"{', '.join(names)}: {told}" for told, names in sites.items()) + "."


def gather(
    topology: Topology, target: Target, folder: Path, name: str, told: RunResult, warn: Callable[[str], None]
) -> RunResult:
    """Write a run's result into ``folder``, and beside it a copy of what each site keeps of the run.

    Where a copy fails, or nothing can be reached, the thinned history that the server has takes its place.

    Args:
        topology: the mesh; sites that it does not name are ignored.
        target: where the sites are.
        folder: of the run, named by its id.
        name: of the run.
        told: the server's result, with thinned histories; where this machine knows better, as the run's name
            and graph, it is not believed.
        warn: called with copies that failed.

    Returns:
        The result as it is written, without the thinned histories.
    """
    sites = {site.name: told.sites[site.name] for site in topology.sites if site.name in told.sites}
    mesh = build(topology)
    result = replace(
        told,
        run_id=folder.name,
        name=name,
        topology=topology.name,
        algorithm=topology.run.algorithm,
        iterations=topology.run.iterations,
        predicted_contraction=mesh.contraction(topology.run.wire.step),
        graph=Graph(list(mesh.sites), [matrix.tolist() for matrix in mesh.matrices]),
        sites={site: replace(known, history=[]) for site, known in sites.items()},
    )
    atomic.write(folder / RESULT, RUN_RESULT.json(result, indent=2) + "\n", durable=True)
    for site, known in sites.items():
        if not _copied(target, site, folder.name, folder / site, warn) and known.history:
            _write_history(folder / site, known)
    return result


def _write_history(folder: Path, site: SiteResult) -> None:
    folder.mkdir()
    with History(folder / HISTORY) as history:
        for record in site.history:
            history.add(record)


def _copied(target: Target, site: str, run_id: str, folder: Path, warn: Callable[[str], None]) -> bool:
    try:
        return target.fetch(site, run_id, folder)
    except (DeployError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        warn(
            f"what {site} keeps of the run could not be copied: {printable(error)}. "
            f"It is still there, in {run_id}/{RUN_FOLDER} of its workspace."
        )
        return False
