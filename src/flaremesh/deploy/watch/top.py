"""What a mesh does at this moment, as its participants' agents tell it."""

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from flaremesh.deploy.targets.base import DeployError, Target
from flaremesh.metrics.names import RELAY, AgentMetric, Phase, RunMetric, RunState
from flaremesh.topology.schema import SERVER, Topology

_WINDOW = 6  # scrapes that rates are taken over: the process of a run writes its page once a second only
_SILENCE_SECONDS = 10.0
_RESOLUTION = 1e-6  # of the greatest distance seen; below, a distance may be round-off
_ORDER = (
    RunState.FAILED,
    RunState.ABORTED,
    RunState.RUNNING,
    RunState.CONFIGURING,
    RunState.WAITING,
    RunState.FINISHED,
)


@dataclass(frozen=True)
class SiteView:
    """A site, in one run or in none; None is what it does not tell.

    Attributes:
        name: the site's.
        answers: its agent does, or the server tells what the site shares.
        ready: it could take part in a run.
        problem: why it could not be asked.
        state: of its run.
        iteration: how many it has finished.
        max_iterations: how many it shall do.
        iterations_per_second: lately.
        loss: on the last mini-batch, or of the last evaluation where there is none.
        accuracy: of the last evaluation, 0 to 1.
        consensus_distance: norm of its value minus its neighbourhood's weighted mean.
        shares: of its time, by phase; what is missing to 1 is in none of them.
        waits_for: the neighbour whose messages it waited for longest.
        waits_for_share: of its time.
        links: how many neighbours it reaches over each kind of link.
        unwanted_relays: neighbours that it could reach directly and does not.
        sent_bytes_per_second, received_bytes_per_second: payload.
        non_finite: iterations with a NaN or infinite loss or distance.
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
    unwanted_relays: Sequence[str] = ()
    sent_bytes_per_second: float | None = None
    received_bytes_per_second: float | None = None
    non_finite: int = 0


@dataclass(frozen=True)
class ConsensusView:
    """How far the sites of a run are apart; None is what one of them does not tell, or theory does not.

    Attributes:
        distance: ‖(I − W)X‖ over all sites.
        expected_level: what it settles below, by theory, with what the sites add to their means now.
        predicted_contraction: per iteration, by mixing alone.
        measured_contraction: per iteration; None unless the distance falls far above the expected level.
    """

    distance: float | None
    expected_level: float | None
    predicted_contraction: float | None
    measured_contraction: float | None


@dataclass(frozen=True)
class RunView:
    """A run, or the want of one.

    Attributes:
        run_id, algorithm, topology: None where no site has run anything yet.
        state: of the site that is worst off.
        iteration: of the last site.
        max_iterations: how many it shall do.
        seconds_left: at the pace of the slowest site.
        last_iteration: when one ended last, Unix time.
        consensus: how far the sites are apart.
        sites: all of the mesh, in the order of the topology.
    """

    run_id: str | None
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
        """It has not ended."""
        return self.state is not None and not self.state.ended


@dataclass(frozen=True)
class ServerView:
    """The server; None is what it does not tell.

    Attributes:
        answers: its agent does.
        ready: it takes runs.
        problem: why it could not be asked.
        registered_sites: how many it knows.
        running_jobs: how many.
        relay_bytes_per_second: of the messages between sites that go through it.
    """

    answers: bool
    ready: bool = False
    problem: str | None = None
    registered_sites: int | None = None
    running_jobs: int | None = None
    relay_bytes_per_second: float | None = None


@dataclass(frozen=True)
class MeshView:
    """A mesh at one moment.

    Attributes:
        mesh: its name.
        server: the server.
        runs: those that have not ended, or else the last one.
    """

    mesh: str
    server: ServerView
    runs: Sequence[RunView]

    @property
    def up(self) -> bool:
        """Somebody answers."""
        return self.server.answers or any(site.answers for run in self.runs for site in run.sites)


class Scrape:
    """What an agent said at one moment, or what the server's said of a site.

    Args:
        samples: its metrics, None where it did not answer.
        when: seconds of the monotonic clock.
        problem: why there is no page, if that is known.
    """

    def __init__(self, samples: Iterable[Sample] | None, when: float, problem: str | None = None):
        self.answered = samples is not None
        self.when = when
        self.problem = problem
        self._series: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        self._shared: dict[str, list[Sample]] = {}
        for sample in samples or ():
            if site := sample.labels.get("site"):
                own = {label: value for label, value in sample.labels.items() if label != "site"}
                self._shared.setdefault(site, []).append(sample._replace(labels=own))
            else:
                self._series.setdefault(sample.name, []).append((sample.labels, sample.value))

    @classmethod
    def of(cls, page: bytes, when: float) -> "Scrape":
        """What a page of metrics says."""
        families = text_string_to_metric_families(page.decode())
        return cls([sample for family in families for sample in family.samples], when)

    def shared_by(self, site: str) -> "Scrape":
        """What the server shows of a site."""
        return Scrape(self._shared.get(site), self.when)

    def series(
        self, metric: RunMetric | AgentMetric, suffix: str = "", **labels: str
    ) -> list[tuple[Mapping[str, str], float]]:
        """Labels and value of each series that has these labels; ``suffix`` chooses a part of a histogram."""
        own = self._series.get(metric.value.full_name + suffix, ())
        return [(known, value) for known, value in own if labels.items() <= known.items()]

    def value(self, metric: RunMetric | AgentMetric, suffix: str = "", **labels: str) -> float | None:
        """The value of the series with these labels, None if there is none."""
        return next((value for _, value in self.series(metric, suffix, **labels)), None)

    def runs(self) -> dict[str, Mapping[str, str]]:
        """The labels of each run's information, by its id."""
        return {labels["run_id"]: labels for labels, _ in self.series(RunMetric.INFO)}


class Recent:
    """What the participants of a mesh said lately.

    Args:
        topology: the mesh.
        silence: seconds after which what a participant said is no news any more.
    """

    def __init__(self, topology: Topology, silence: float = _SILENCE_SECONDS):
        self._mesh = topology.name
        self._sites = [site.name for site in topology.sites]
        self._silence = silence
        self._scrapes: dict[str, deque[Scrape]] = {
            name: deque(maxlen=_WINDOW) for name in (SERVER, *self._sites)
        }
        self._greatest: dict[str, float] = {}

    @property
    def scrapes(self) -> Mapping[str, Sequence[Scrape]]:
        """By participant, the last one last."""
        return self._scrapes

    def add(self, participant: str, scrape: Scrape) -> None:
        """Somebody was asked."""
        self._scrapes[participant].append(scrape)

    def view(self, now: float) -> MeshView:
        """The mesh at a moment of the monotonic clock."""
        scrapes = {name: self._fresh(list(own), now) for name, own in self._scrapes.items()}
        server = scrapes.pop(SERVER)
        for name, own in scrapes.items():
            shared = [scrape.shared_by(name) for scrape in server]
            if shared and shared[-1].answered and not (own and own[-1].answered):
                scrapes[name] = [scrape for scrape in shared if scrape.answered]
        told = {run_id: info for own in scrapes.values() for run_id, info in _runs(own).items()}
        runs = [self._run(run_id, info, scrapes) for run_id, info in told.items()]
        shown = [run for run in runs if run.active] or sorted(runs, key=lambda run: run.last_iteration)[-1:]
        return MeshView(self._mesh, _server(server), shown or [self._run(None, {}, scrapes)])

    def _fresh(self, scrapes: list[Scrape], now: float) -> list[Scrape]:
        """Nothing that was said before a silence."""
        if scrapes and now - scrapes[-1].when > self._silence:
            return []
        silent = max((n for n, scrape in enumerate(scrapes) if not scrape.answered), default=-1)
        return scrapes[silent + 1 :] or scrapes[-1:]

    def _run(
        self, run_id: str | None, info: Mapping[str, str], scrapes: Mapping[str, Sequence[Scrape]]
    ) -> RunView:
        spans = {name: span for name, own in scrapes.items() if (span := _Span.of(own, run_id))}
        sites = [_site(name, scrapes[name], spans.get(name)) for name in self._sites]
        members = [site for site in sites if site.state]
        done = min((site.iteration or 0 for site in members), default=None)
        limit = max((site.max_iterations or 0 for site in members), default=None)
        pace = min((site.iterations_per_second or 0.0 for site in members), default=0.0)
        last_iterations = [span.value(RunMetric.LAST_ITERATION) or 0.0 for span in spans.values()]
        return RunView(
            run_id=run_id,
            algorithm=info.get("algorithm"),
            topology=info.get("topology"),
            state=next((state for state in _ORDER if any(site.state is state for site in members)), None),
            iteration=done,
            max_iterations=limit,
            seconds_left=((limit or 0) - (done or 0)) / pace if pace else None,
            last_iteration=max(last_iterations, default=0.0),
            consensus=self._consensus(run_id, list(spans.values())),
            sites=sites,
        )

    def _consensus(self, run_id: str | None, spans: Sequence["_Span"]) -> ConsensusView:
        distance, innovation = (
            self._norm([span.value(metric) for span in spans])
            for metric in (RunMetric.CONSENSUS_DISTANCE, RunMetric.INNOVATION_NORM)
        )
        predicted = next((span.value(RunMetric.PREDICTED_CONTRACTION) for span in spans), None)
        level = measured = None
        if innovation is not None and predicted is not None and predicted < 1:
            level = 2 * innovation / (1 - predicted)
        before = self._norm([span.before(RunMetric.CONSENSUS_DISTANCE) for span in spans])
        if run_id and distance is not None and before is not None:
            greatest = self._greatest[run_id] = max(self._greatest.get(run_id, 0.0), before, distance)
            # where steps or round-off keep the distance up, it says nothing of mixing
            if max(2 * (level or 0.0), _RESOLUTION * greatest) < distance < before / 2:
                iterations = sum(span.iterations for span in spans) / len(spans)
                measured = (distance / before) ** (1 / iterations) if iterations else None
        return ConsensusView(distance, level, predicted, measured)

    def _norm(self, parts: Sequence[float | None]) -> float | None:
        """Over all sites, None unless all tell their part."""
        known = [part for part in parts if part is not None]
        return math.hypot(*known) if len(known) == len(self._sites) else None


class Watch:
    """Asks all participants again and again; one that is slow to answer delays no other.

    Args:
        topology: the mesh.
        target: where it runs.
        interval: seconds between an answer and the next question.
    """

    def __init__(self, topology: Topology, target: Target, interval: float):
        self._target = target
        self._interval = interval
        self._recent = Recent(topology, _SILENCE_SECONDS + interval)
        self._changed = threading.Condition()
        for name in self._recent.scrapes:
            threading.Thread(target=self._follow, args=(name,), daemon=True).start()

    def wait(self, scrapes: int) -> None:
        """Until every participant was asked so often, or for as long as one may be silent."""
        with self._changed:
            self._changed.wait_for(
                lambda: all(len(own) >= scrapes for own in self._recent.scrapes.values()),
                _SILENCE_SECONDS + scrapes * self._interval,
            )

    def view(self) -> MeshView:
        """The mesh as it was told of last."""
        with self._changed:
            return self._recent.view(time.monotonic())

    def _follow(self, name: str) -> None:
        while True:
            scrape = self._ask(name)
            with self._changed:
                self._recent.add(name, scrape)
                self._changed.notify_all()
            time.sleep(self._interval)

    def _ask(self, name: str) -> Scrape:
        try:
            page = self._target.ask(name, "/metrics")
        except DeployError as error:
            return Scrape(None, time.monotonic(), str(error))
        now = time.monotonic()
        return Scrape(None, now) if page is None else Scrape.of(page, now)


@dataclass(frozen=True)
class _Span:
    """A site's run between two scrapes, which may be the same."""

    first: Scrape
    last: Scrape
    slot: str

    @classmethod
    def of(cls, scrapes: Sequence[Scrape], run_id: str | None) -> "_Span | None":
        """The longest one that ends with the last scrape, None if that does not know the run."""
        knowing = [scrape for scrape in scrapes if run_id in scrape.runs()]
        if run_id is None or not knowing or knowing[-1] is not scrapes[-1]:
            return None
        return cls(knowing[0], knowing[-1], knowing[-1].runs()[run_id]["slot"])

    @property
    def iterations(self) -> float:
        return self.increase(RunMetric.ITERATIONS)

    @property
    def seconds(self) -> float:
        """From iteration to iteration on the site's own clock: its page is older than the scrape."""
        return self.increase(RunMetric.LAST_ITERATION)

    def value(self, metric: RunMetric, suffix: str = "") -> float | None:
        return self.last.value(metric, suffix, slot=self.slot)

    def before(self, metric: RunMetric) -> float | None:
        return self.first.value(metric, slot=self.slot)

    def current(self, metric: RunMetric) -> list[Mapping[str, str]]:
        """Labels of the series that are not 0."""
        return [labels for labels, value in self.last.series(metric, slot=self.slot) if value]

    def increase(self, metric: RunMetric) -> float:
        return (self.value(metric) or 0.0) - (self.before(metric) or 0.0)

    def increases(self, metric: RunMetric, label: str, suffix: str = "") -> dict[str, float]:
        """By a label; since the run began where no iteration ended in between."""
        now, then = (
            {labels[label]: value for labels, value in scrape.series(metric, suffix, slot=self.slot)}
            for scrape in (self.last, self.first)
        )
        return {key: value - (then.get(key, 0.0) if self.iterations else 0.0) for key, value in now.items()}

    def per_second(self, metric: RunMetric) -> float:
        """Of all neighbours together."""
        if not self.iterations or not self.seconds:
            return 0.0
        return sum(self.increases(metric, "peer").values()) / self.seconds

    def pace(self) -> float:
        """Iterations per second, of the run so far where none ended in between but one may be under way."""
        if self.iterations and self.seconds:
            return self.iterations / self.seconds
        done, total = (self.value(RunMetric.ITERATION_SECONDS, part) for part in ("_count", "_sum"))
        if not done or not total:
            return 0.0
        quiet = time.time() - (self.value(RunMetric.LAST_ITERATION) or 0.0)
        return done / total if quiet < 2 * total / done else 0.0


def _runs(scrapes: Sequence[Scrape]) -> dict[str, Mapping[str, str]]:
    return scrapes[-1].runs() if scrapes else {}


def _site(name: str, scrapes: Sequence[Scrape], span: _Span | None) -> SiteView:
    if not scrapes or not scrapes[-1].answered:
        return SiteView(name, answers=False, problem=scrapes[-1].problem if scrapes else None)
    ready = bool(scrapes[-1].value(AgentMetric.READY))
    if span is None:
        return SiteView(name, answers=True, ready=ready)
    state = next((RunState(labels["state"]) for labels in span.current(RunMetric.STATE)), None)
    running = state is not None and not state.ended
    phases = span.increases(RunMetric.PHASE_SECONDS, "phase", "_sum")
    # evaluations are no part of an iteration
    seconds = sum(span.increases(RunMetric.ITERATION_SECONDS, "slot", "_sum").values())
    seconds += phases.get(Phase.EVALUATE, 0.0)
    waits = span.increases(RunMetric.NEIGHBOR_WAIT, "peer")
    worst = max(waits, key=waits.__getitem__, default=None)
    links = {labels["peer"]: labels["kind"] for labels in span.current(RunMetric.LINK)}
    wanted = {labels["peer"] for labels in span.current(RunMetric.DIRECT_WANTED)}
    loss = span.value(RunMetric.TRAIN_LOSS)
    return SiteView(
        name=name,
        answers=True,
        ready=ready,
        state=state,
        iteration=int(span.value(RunMetric.CURRENT_ITERATION) or 0),
        max_iterations=int(span.value(RunMetric.MAX_ITERATIONS) or 0),
        iterations_per_second=span.pace() if running else None,
        loss=span.value(RunMetric.VALIDATION_LOSS) if loss is None else loss,
        accuracy=span.value(RunMetric.VALIDATION_ACCURACY),
        consensus_distance=span.value(RunMetric.CONSENSUS_DISTANCE),
        shares={Phase(phase): spent / seconds for phase, spent in phases.items()} if seconds else {},
        waits_for=worst if seconds else None,
        waits_for_share=waits[worst] / seconds if worst and seconds else None,
        links=dict(Counter(links.values())),
        unwanted_relays=sorted(peer for peer in wanted if links.get(peer) == RELAY),
        sent_bytes_per_second=span.per_second(RunMetric.SENT_BYTES) if running else None,
        received_bytes_per_second=span.per_second(RunMetric.RECEIVED_BYTES) if running else None,
        non_finite=int(span.value(RunMetric.NON_FINITE) or 0),
    )


def _server(scrapes: Sequence[Scrape]) -> ServerView:
    if not scrapes or not scrapes[-1].answered:
        return ServerView(answers=False, problem=scrapes[-1].problem if scrapes else None)
    first, last = scrapes[0], scrapes[-1]
    sites, jobs = (last.value(metric) for metric in (AgentMetric.REGISTERED_SITES, AgentMetric.RUNNING_JOBS))
    then, now = (scrape.value(AgentMetric.SERVER_BYTES, kind=RELAY) or 0.0 for scrape in (first, last))
    seconds = last.when - first.when
    return ServerView(
        answers=True,
        ready=bool(last.value(AgentMetric.READY)),
        registered_sites=None if sites is None else int(sites),
        running_jobs=None if jobs is None else int(jobs),
        # a server that started again counts from 0
        relay_bytes_per_second=(now - then) / seconds if seconds and now >= then else None,
    )
