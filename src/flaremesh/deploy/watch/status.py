"""The participants and the runs of a mesh."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flaremesh.deploy.runs.known import known_runs
from flaremesh.deploy.runs.session import AdminSession, connect
from flaremesh.deploy.targets.base import DeployError, Participant, Target
from flaremesh.p2p.progress import SiteProgress
from flaremesh.topology.schema import SERVER, Topology


@dataclass(frozen=True)
class ActiveRun:
    """A run that has not ended.

    Attributes:
        run_id: id of the run.
        name: its name.
        state: what its controller says, or what NVFlare says of its job where there is no controller yet.
        sites: the latest figures of every site that has sent some.
        missing: the sites that it waits for or goes on without, and since when, Unix time.
    """

    run_id: str
    name: str
    state: str
    sites: Mapping[str, SiteProgress]
    missing: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MeshStatus:
    """The participants and the runs of a mesh.

    Attributes:
        participants: the server first.
        registered: sites that the server knows; None if the server does not answer.
        runs: None if the server does not answer.
    """

    participants: Sequence[Participant]
    registered: Sequence[str] | None
    runs: Sequence[ActiveRun] | None

    @property
    def ready(self) -> bool:
        """Whether a run may start."""
        known = () if self.registered is None else (SERVER, *self.registered)
        return all(p.ready or (p.elsewhere and p.name in known) for p in self.participants)


def mesh_status(topology: Topology, target: Target, mesh: Path) -> MeshStatus:
    """Ask the target and, if it is there, the server."""
    participants = target.participants()
    if not (participants[0].ready or participants[0].elsewhere):
        return MeshStatus(participants, None, None)
    try:
        with target.server() as server, connect(topology, mesh, server) as session:
            return MeshStatus(participants, sorted(session.sites()), _runs(session))
    except DeployError:
        return MeshStatus(participants, None, None)


def _runs(session: AdminSession) -> list[ActiveRun]:
    runs = []
    for run in known_runs(session):
        if not run.state.ended:
            progress = session.progress(run.last)
            state, sites = (progress.state, progress.sites) if progress else (run.state, {})
            runs.append(ActiveRun(run.run_id, run.name, state, sites, run.missing))
    return runs
