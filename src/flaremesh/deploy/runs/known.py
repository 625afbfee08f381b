"""The runs that a server knows: each is the jobs of its attempts, and has the id of the first."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flaremesh.deploy.runs.follow import why_refused
from flaremesh.deploy.runs.results import RUNS, submitted_topology
from flaremesh.deploy.runs.session import AdminSession, UnknownRun, connect
from flaremesh.deploy.targets.base import DeployError, Target
from flaremesh.metrics.names import RunState
from flaremesh.p2p.nvflare.jobs import Job
from flaremesh.printable import printable
from flaremesh.topology.schema import Topology


@dataclass(frozen=True)
class KnownRun:
    """A run at the server.

    Attributes:
        jobs: its attempts, by the ids of their jobs, the first one first.
    """

    jobs: Mapping[str, Job]

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return next(iter(self.jobs))

    @property
    def last(self) -> str:
        """The id of the last attempt's job."""
        return next(reversed(list(self.jobs)))

    @property
    def name(self) -> str:
        """Its name, for people."""
        return self.jobs[self.run_id].name

    @property
    def state(self) -> RunState:
        """Where it is."""
        return self.jobs[self.last].state

    @property
    def missing(self) -> Mapping[str, float]:
        """The sites that it waits for or goes on without, and since when, Unix time."""
        return self.jobs[self.last].missing

    def answers_to(self, prefix: str) -> bool:
        """Whether its id, or that of an attempt, begins so."""
        return any(job_id.startswith(prefix) for job_id in self.jobs)


def known_runs(session: AdminSession) -> list[KnownRun]:
    """The latest runs of the mesh, the oldest of them first."""
    listed = session.jobs()
    runs: dict[str, dict[str, Job]] = {}
    first: dict[str, str] = {}
    for job_id, job in listed.items():
        before = job.cloned_from
        # an admin may clone any job, which is another run unless that was lost, or resumed
        goes_on = before in first and (
            listed[before].lost is not None or listed[before].next_attempt == job_id
        )
        first[job_id] = first[before] if before and goes_on else job_id
        runs.setdefault(first[job_id], {})[job_id] = job
    return [KnownRun(jobs) for jobs in runs.values()]


def find(session: AdminSession, prefix: str | None) -> KnownRun:
    """The run whose id, or that of an attempt, begins so; the newest one without a prefix.

    Raises:
        UnknownRun: there is none.
        DeployError: there are several.
    """
    runs = known_runs(session)
    found = runs[-1:] if prefix is None else [run for run in runs if prefix and run.answers_to(prefix)]
    match found:
        case [run]:
            return run
        case []:
            wanted = "run" if prefix is None else f"run {printable(prefix, 80)}"
            raise UnknownRun(f"the server has no {wanted}: it never had it, or it was removed after its end")
    ids = ", ".join(run.run_id for run in found[:5])
    raise DeployError(
        f"{printable(prefix, 80)} may be any of {len(found)} runs, such as {ids}: name more of it"
    )


@dataclass(frozen=True)
class RunLine:
    """A run as `flaremesh runs` shows it.

    Attributes:
        run_id: its id.
        name: its name.
        submitter: in whose name it was submitted.
        state: where it is.
        why: what it waits for, why it does not go on, or who is missing; empty where nothing is to be said.
        iteration: how many iterations all sites have finished; None where nobody says it.
        iterations: how many it will do; None for a run that was submitted from elsewhere.
        attempts: ids of the jobs of its attempts.
        submitted: when it was submitted, in seconds since 1970; 0 if unknown.
    """

    run_id: str
    name: str
    submitter: str
    state: RunState
    why: str
    iteration: int | None
    iterations: int | None
    attempts: tuple[str, ...]
    submitted: float


def run_lines(topology: Topology, target: Target, mesh: Path) -> list[RunLine]:
    """What the server tells of the runs of a mesh, the newest last."""
    with target.server() as server, connect(topology, mesh, server) as session:
        return [_line(session, run, mesh / RUNS / run.run_id) for run in known_runs(session)]


def _line(session: AdminSession, run: KnownRun, folder: Path) -> RunLine:
    job = run.jobs[run.last]
    state = run.state
    progress = session.progress(run.last) if state is RunState.RUNNING else None
    if progress:  # the controller knows the end seconds before NVFlare
        state = RunState.WAITING if progress.result and progress.result.lost else progress.state
    iteration = min((site.iteration for site in progress.sites.values()), default=None) if progress else None
    asked = submitted_topology(folder)
    return RunLine(
        run.run_id,
        run.name,
        run.jobs[run.run_id].submitter,
        state,
        _why(job),
        iteration,
        asked.run.iterations if asked else None,
        tuple(run.jobs),
        run.jobs[run.run_id].submitted,
    )


def _why(job: Job) -> str:
    if job.given_up:
        return job.given_up
    missing = ", ".join(sorted(job.missing))
    if not job.goes_on:
        return why_refused(job) if job.refusals else f"without {missing}" if missing else ""
    return f"{job.lost}; waits for {missing}" if missing else job.lost or ""
