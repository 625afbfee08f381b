"""A run that has ended without finishing goes on, at the wish of an admin."""

import threading
from collections.abc import Callable
from pathlib import Path

from flaremesh.deploy.runs.attach import as_told, follow_known, gathered
from flaremesh.deploy.runs.connection import Connection
from flaremesh.deploy.runs.known import KnownRun, find
from flaremesh.deploy.runs.results import RUNS, forget_result, submitted_topology
from flaremesh.deploy.runs.run import run
from flaremesh.deploy.runs.session import connect
from flaremesh.deploy.targets.base import DeployError, Target
from flaremesh.metrics.names import RunState
from flaremesh.p2p.outcome import RunResult
from flaremesh.p2p.progress import RunProgress
from flaremesh.provision.job import ordered_run
from flaremesh.topology.schema import Run, Topology


class NotResumable(DeployError):
    """The run does not go on; the message says why."""

    exit_code = 2


def resume(
    topology: Topology,
    target: Target,
    mesh: Path,
    prefix: str,
    show: Callable[[str, RunProgress], None],
    stop: threading.Event,
    warn: Callable[[str], None],
) -> RunResult:
    """Let a run go on from its checkpoints in another attempt, follow it, and gather its results.

    The attempt is of what the run's submitter has signed, and each site lets it in like any other.

    Args:
        topology: the mesh.
        target: where it is up.
        mesh: its folder.
        prefix: how the id of the run, or of one of its attempts, begins.
        show: called with the run's id and the progress, a few times a second.
        stop: set it to leave the run alone.
        warn: called with what keeps the results from being complete.

    Raises:
        UnknownRun: the server knows no such run.
        NotResumable: it goes on, has finished, keeps no checkpoints, or a site that it needs is not there.
        LeftAlone: ``stop`` was set before the end.
        DeployError: several are called so, the server cannot be reached, or it refuses.
    """
    with Connection(topology, target, mesh) as connection:
        known = find(connection.session, prefix)
        folder = mesh / RUNS / known.run_id
        asked = submitted_topology(folder)
        connection.run = (asked or topology).run
        missing = {site.name for site in topology.sites} - connection.session.sites()
        require_resumable(known, connection.run, sorted(missing))
        job = connection.session.clone(known.last)
        try:
            forget_result(folder)
        except OSError as error:
            warn(f"what {folder} has of the run's earlier attempts stays there: {error.strerror}")
        result, job = follow_known(connection, target, known, job, show, stop, warn)
    return gathered(asked or as_told(topology, result), target, folder, known.name, result, warn, job)


def resume_with(
    changed: Topology,
    target: Target,
    mesh: Path,
    prefix: str,
    show: Callable[[str, RunProgress], None],
    stop: threading.Event,
    warn: Callable[[str], None],
) -> RunResult:
    """Let a run go on with other sites: as a run with an order of its own, which is signed now.

    Each site decides on it anew, by its policy and with a person's approval. Those that took part go on from
    their checkpoints, and the others join them.

    Args:
        changed: the mesh with the run's sites; of the run, all but the algorithm may be another.
        target, mesh, prefix, show, stop, warn: as in `resume`.

    Raises:
        UnknownRun: the server knows no such run.
        NotResumable: as in `resume`; or it was submitted elsewhere, or is of another algorithm.
        LeftAlone, NotSubmitted, DeployError: as `run`.
    """
    with target.server() as server, connect(changed, mesh, server) as session:
        known = find(session, prefix)
    folder = mesh / RUNS / known.run_id
    asked = submitted_topology(folder)
    if asked is None:
        raise NotResumable(
            f"the run {known.run_id} was not submitted from here: only who has its signed job in {folder} "
            "lets it go on with other sites"
        )
    require_resumable(known, asked.run, [])
    require_resumable(known, changed.run, [])
    if asked.run.algorithm != changed.run.algorithm:
        raise NotResumable(f"the run {known.run_id} is of {asked.run.algorithm}, whose state no other has")
    continues = ordered_run(folder / "job")
    return run(changed, target, mesh, known.name, show, stop, warn, leave=lambda: True, continues=continues)


def require_resumable(known: KnownRun, options: Run, missing: list[str]) -> None:
    """Raise NotResumable unless a run with these options may be resumed, with these sites not there."""
    if not known.state.ended:
        raise NotResumable(
            f"the run {known.run_id} goes on by itself: `flaremesh attach FILE {known.run_id}` follows it"
        )
    if known.state is RunState.FINISHED:
        raise NotResumable(
            f"the run {known.run_id} has finished: `flaremesh attach FILE {known.run_id}` fetches what it "
            "left"
        )
    if options.on_loss == "fail":
        raise NotResumable(
            f"the run {known.run_id} keeps no checkpoints: with run.on_loss, wait or continue, it would"
        )
    if missing and options.on_loss == "wait":
        raise NotResumable(
            f"the run {known.run_id} needs all its sites, and these are not there: {', '.join(missing)}"
        )
