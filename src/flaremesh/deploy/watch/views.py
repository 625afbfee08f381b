"""What there is to see of a mesh at one moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flaremesh.metrics.names import Phase, RunState


@dataclass(frozen=True)
class SiteView:
    """A site, in one run or in none; None stands for what is not known.

    Attributes:
        name: the site's.
        answers: whether its agent does, or the server shows what the site shares.
        ready: whether it could take part in a run.
        problem: why it could not be asked.
        state: of its run.
        iteration: how many iterations it has finished.
        max_iterations: how many it shall do.
        iterations_per_second: over the last scrapes.
        loss: on the last mini-batch, or of the last evaluation where there is none.
        accuracy: of the last evaluation, 0 to 1.
        consensus_distance: norm of its value minus its neighbourhood's weighted mean.
        shares: of its time, by phase; they may sum to less than 1, since some time is in no phase.
        waits_for: the neighbour whose messages it waited for longest.
        waits_for_share: share of its time for which it waited for that one.
        links: how many neighbours it reaches in which way, by the words of Carried.
        worse_links: how it reaches those that it should reach in a better way, by neighbour.
        sent_bytes_per_second, received_bytes_per_second: payload.
        non_finite: iterations with a NaN or infinity in the loss, the distances or the next message.
    """

    name: str
    answers: bool
    ready: bool = False
    problem: str | None = None
    state: RunState | None = None
    iteration: int | None = None
    max_iterations: int | None = None
    iterations_per_second: float | None = None
    loss: float | None = None
    accuracy: float | None = None
    consensus_distance: float | None = None
    shares: Mapping[Phase, float] = field(default_factory=dict)
    waits_for: str | None = None
    waits_for_share: float | None = None
    links: Mapping[str, int] = field(default_factory=dict)
    worse_links: Mapping[str, str] = field(default_factory=dict)
    sent_bytes_per_second: float | None = None
    received_bytes_per_second: float | None = None
    non_finite: int = 0


@dataclass(frozen=True)
class ConsensusView:
    """How far the sites of a run are apart; None stands for what a site, or theory, does not say.

    Attributes:
        distance: ‖(I − W)X‖ over all sites.
        expected_level: what it settles below, by theory, given what the sites add to the mixture now.
        predicted_contraction: factor per iteration, by mixing alone.
        measured_contraction: per iteration; None unless the distance falls far above the expected level.
    """

    distance: float | None
    expected_level: float | None
    predicted_contraction: float | None
    measured_contraction: float | None


@dataclass(frozen=True)
class RunView:
    """A run, or the sites of a mesh that has none.

    Attributes:
        run_id, attempt, algorithm, topology: None where no site has run anything yet.
        state: of the site that is worst off; waiting between two attempts.
        iteration: of the site that is furthest behind.
        max_iterations: how many iterations it shall do.
        seconds_left: at the pace of the slowest site.
        last_iteration: when one ended last, Unix time.
        consensus: how far the sites are apart.
        sites: all of the mesh, in the order of the topology.
    """

    run_id: str | None
    attempt: str | None
    algorithm: str | None
    topology: str | None
    state: RunState | None
    iteration: int | None
    max_iterations: int | None
    seconds_left: float | None
    last_iteration: float
    consensus: ConsensusView
    sites: Sequence[SiteView]

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.state is not None and not self.state.ended


@dataclass(frozen=True)
class ServerView:
    """The server; None stands for what is not known.

    Attributes:
        answers: whether its agent does.
        ready: whether it takes runs.
        problem: why it could not be asked.
        registered_sites: how many it knows.
        running_jobs: jobs whose process runs there.
        relay_bytes_per_second: of the messages between sites that go through it.
    """

    answers: bool
    ready: bool = False
    problem: str | None = None
    registered_sites: int | None = None
    running_jobs: int | None = None
    relay_bytes_per_second: float | None = None


@dataclass(frozen=True)
class MissingView:
    """A site that a run waits for, or goes on without.

    Attributes:
        run_id: the run.
        site: the site.
        since: since when, Unix time.
    """

    run_id: str
    site: str
    since: float


@dataclass(frozen=True)
class MeshView:
    """A mesh at one moment.

    Attributes:
        mesh: its name.
        server: the server.
        runs: those that have not ended, or else the last one.
        missing: the sites that runs, also between two attempts, wait for or go on without.
    """

    mesh: str
    server: ServerView
    runs: Sequence[RunView]
    missing: Sequence[MissingView] = ()

    @property
    def up(self) -> bool:
        """Whether any participant answers."""
        return self.server.answers or any(site.answers for run in self.runs for site in run.sites)
