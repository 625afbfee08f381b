"""The end of a run that goes on, at the wish of an admin."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flaremesh.deploy.runs.attach import gathered
from flaremesh.deploy.runs.follow import END_SECONDS, abort
from flaremesh.deploy.runs.known import find
from flaremesh.deploy.runs.results import RUNS, gathered_result, submitted_topology
from flaremesh.deploy.runs.session import UnknownRun, connect
from flaremesh.deploy.targets.base import Target
from flaremesh.metrics.names import RunState
from flaremesh.topology.schema import Topology


@dataclass(frozen=True)
class Ended:
    """A run that was to end.

    Attributes:
        run_id: its id.
        state: where it is now.
        aborted: it had not ended before.
    """

    run_id: str
    state: str
    aborted: bool


def end(topology: Topology, target: Target, mesh: Path, prefix: str, warn: Callable[[str], None]) -> Ended:
    """Abort a run, whatever it waits for, and gather it if it was submitted from here.

    One that has ended stays as it is.

    Raises:
        UnknownRun: neither the server nor this machine knows such a run.
        DeployError: several are called so, the server cannot be reached, or it refuses.
    """
    with target.server() as server, connect(topology, mesh, server) as session:
        try:
            run = find(session, prefix)
        except UnknownRun:
            if gone := gathered_result(mesh, prefix):
                return Ended(gone.run_id, gone.outcome, aborted=False)
            raise
        if run.state.ended:
            return Ended(run.run_id, run.state, aborted=False)
        result = abort(session, run.last)
        target.end_run(result.run_id, END_SECONDS)
    folder = mesh / RUNS / run.run_id
    if asked := submitted_topology(folder):
        gathered(asked, target, folder, run.name, result, warn, result.run_id)
    return Ended(run.run_id, result.outcome, aborted=result.outcome == RunState.ABORTED)
