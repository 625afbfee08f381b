"""What a mesh does at this moment, as its participants' agents tell it."""

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

from flaremesh.deploy.targets.base import DeployError, Target
from flaremesh.deploy.watch.scrapes import Scrape, Span
from flaremesh.deploy.watch.views import ConsensusView, MeshView, MissingView, RunView, ServerView, SiteView
from flaremesh.metrics.names import RELAY, AgentMetric, Phase, RunMetric, RunState
from flaremesh.topology.schema import SERVER, Topology

_WINDOW = 6  # scrapes over which rates are taken, because a run's process writes its page only once a second
_SILENCE_SECONDS = 10.0
_FOREVER_SECONDS = 1e9  # thirty years
_RESOLUTION = 1e-6  # times the greatest distance seen; a smaller distance may be round-off
# a run's state is the first of these that one of its sites is in
_ORDER = (
    RunState.FAILED,
    RunState.ABORTED,
    RunState.RUNNING,
    RunState.CONFIGURING,
    RunState.WAITING,
    RunState.FINISHED,
)


class Recent:
    """The latest scrapes of all participants of a mesh.

    Args:
        topology: the mesh.
        silence: seconds after which a scrape is too old to be shown.
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
        """The scrapes of each participant, the last one last."""
        return self._scrapes

    def add(self, participant: str, scrape: Scrape) -> None:
        """Keep what a participant answered, or that it did not."""
        self._scrapes[participant].append(scrape)

    def view(self, now: float) -> MeshView:
        """The mesh at a moment of the monotonic clock."""
        scrapes = {name: self._fresh(list(own), now) for name, own in self._scrapes.items()}
        server = scrapes.pop(SERVER)
        for name, own in scrapes.items():
            shared = [scrape.shared_by(name) for scrape in server]
            if shared and shared[-1].answered and not (own and own[-1].answered):
                scrapes[name] = [scrape for scrape in shared if scrape.answered]
        told = {attempt: info for own in scrapes.values() for attempt, info in _runs(own).items()}
        runs = [self._run(attempt, info, scrapes) for attempt, info in told.items()]
        missing = [MissingView(*absence) for scrape in server[-1:] for absence in scrape.missing()]
        shown = _shown(runs, {absence.run_id for absence in missing}) or [self._run(None, {}, scrapes)]
        return MeshView(self._mesh, _server(server), shown, missing)

    def _fresh(self, scrapes: list[Scrape], now: float) -> list[Scrape]:
        """The scrapes since the last one without an answer; none if the last one is too old."""
        if scrapes and now - scrapes[-1].when > self._silence:
            return []
        silent = max((n for n, scrape in enumerate(scrapes) if not scrape.answered), default=-1)
        return scrapes[silent + 1 :] or scrapes[-1:]

    def _run(
        self, attempt: str | None, info: Mapping[str, str], scrapes: Mapping[str, Sequence[Scrape]]
    ) -> RunView:
        spans = {name: span for name, own in scrapes.items() if (span := Span.of(own, attempt))}
        sites = [_site(name, scrapes[name], spans.get(name)) for name in self._sites]
        members = [site for site in sites if site.state]
        done = min((site.iteration or 0 for site in members), default=None)
        limit = max((site.max_iterations or 0 for site in members), default=None)
        pace = min((site.iterations_per_second or 0.0 for site in members), default=0.0)
        last_iterations = [span.value(RunMetric.LAST_ITERATION) or 0.0 for span in spans.values()]
        return RunView(
            run_id=info.get("run_id"),
            attempt=attempt,
            algorithm=info.get("algorithm"),
            topology=info.get("topology"),
            state=next((state for state in _ORDER if any(site.state is state for site in members)), None),
            iteration=done,
            max_iterations=limit,
            seconds_left=_left((limit or 0) - (done or 0), pace),
            last_iteration=max(last_iterations, default=0.0),
            consensus=self._consensus(attempt, list(spans.values())),
            sites=sites,
        )

    def _consensus(self, attempt: str | None, spans: Sequence[Span]) -> ConsensusView:
        distance, innovation = (
            self._norm([span.value(metric) for span in spans])
            for metric in (RunMetric.CONSENSUS_DISTANCE, RunMetric.INNOVATION_NORM)
        )
        predicted = next((span.value(RunMetric.PREDICTED_CONTRACTION) for span in spans), None)
        level = measured = None
        if innovation is not None and predicted is not None and predicted < 1:
            level = 2 * innovation / (1 - predicted)
        before = self._norm([span.before(RunMetric.CONSENSUS_DISTANCE) for span in spans])
        if attempt and distance is not None and before is not None:
            greatest = self._greatest[attempt] = max(self._greatest.get(attempt, 0.0), before, distance)
            # below this, steps or round-off keep the distance up, and its fall does not measure mixing
            if max(2 * (level or 0.0), _RESOLUTION * greatest) < distance < before / 2:
                iterations = sum(span.iterations for span in spans) / len(spans)
                measured = (distance / before) ** (1 / iterations) if iterations > 0 else None
        return ConsensusView(distance, level, predicted, measured)

    def _norm(self, parts: Sequence[float | None]) -> float | None:
        """The 2-norm of the sites' parts; None unless all sites report theirs."""
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
        """Wait until every participant was asked so often, or for as long as one may be silent."""
        with self._changed:
            self._changed.wait_for(
                lambda: all(len(own) >= scrapes for own in self._recent.scrapes.values()),
                _SILENCE_SECONDS + scrapes * self._interval,
            )

    def view(self) -> MeshView:
        """The mesh by the latest scrapes."""
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


def _shown(attempts: Sequence[RunView], lost: Set[str]) -> list[RunView]:
    """The runs that have not ended, those between two attempts included; or else the last one."""
    active = [run for run in attempts if run.active]
    oldest_first = sorted(attempts, key=lambda run: run.last_iteration)
    latest = {run.run_id: run for run in oldest_first}
    waiting = lost - {run.run_id for run in active}
    between = [replace(run, state=RunState.WAITING) for run_id, run in latest.items() if run_id in waiting]
    return active + between or oldest_first[-1:]


def _runs(scrapes: Sequence[Scrape]) -> dict[str, Mapping[str, str]]:
    return scrapes[-1].runs() if scrapes else {}


def _site(name: str, scrapes: Sequence[Scrape], span: Span | None) -> SiteView:
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
    worse = {labels["peer"] for labels in span.current(RunMetric.WORSE_LINK)}
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
        shares={Phase(phase): _share(spent, seconds) for phase, spent in phases.items()} if seconds else {},
        waits_for=worst if seconds else None,
        waits_for_share=_share(waits[worst], seconds) if worst and seconds else None,
        links=dict(Counter(links.values())),
        worse_links={peer: links[peer] for peer in sorted(worse & links.keys())},
        sent_bytes_per_second=span.per_second(RunMetric.SENT_BYTES) if running else None,
        received_bytes_per_second=span.per_second(RunMetric.RECEIVED_BYTES) if running else None,
        non_finite=int(span.value(RunMetric.NON_FINITE) or 0),
    )


def _share(part: float, whole: float) -> float:
    """A share of 0 to 1, whatever the site says of the two."""
    return min(1.0, max(0.0, part / whole))


def _left(iterations: int, pace: float) -> float | None:
    """Seconds for so many iterations; None where nobody can tell."""
    seconds = iterations / pace if pace > 0 else -1.0
    return seconds if 0 <= seconds < _FOREVER_SECONDS else None


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
