"""Whole meshes in one process: every site runs the code of a real run, taking turns in one thread."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from heapq import heapify, heappop, heappush
from itertools import count
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from flaremesh.algorithms import Algorithm, configured
from flaremesh.links.inprocess import InProcessLink, inboxes
from flaremesh.privacy.accounting import pairs_of
from flaremesh.privacy.noise import Secrets
from flaremesh.privacy.pairs import repeatable
from flaremesh.problems.delivery import delivered
from flaremesh.problems.protocol import Problem, ProblemError, SiteContext
from flaremesh.record import finite_or_none
from flaremesh.runtime.checkpoint import Checkpoint, Checkpoints
from flaremesh.runtime.history import History
from flaremesh.runtime.joining import Joining
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.randomness import Generators, TakingTurns
from flaremesh.runtime.site_run import SiteRun
from flaremesh.runtime.until import Ending, reason
from flaremesh.topology.mesh import Mesh
from flaremesh.topology.neighborhood import Neighborhood, hops, with_partners
from flaremesh.topology.schema import Run

_COORDINATES = 10  # so many of the mean are kept of each iteration; all would fill the memory
_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True)
class Snapshot:
    """The mesh after ``iteration`` iterations, seen from outside.

    Attributes:
        iteration: 0 is the initial point.
        consensus_distance: ‖X − JX‖_F of the sites' estimates X (n, d).
        coordinates: the first ten of their mean, or as many as it has.
        loss: mean training loss of the sites; None without a gradient.
    """

    iteration: int
    consensus_distance: float
    coordinates: tuple[float, ...]
    loss: float | None


class Simulation:
    """All sites of a mesh, built and ready to run.

    Args:
        schedules: each site's neighbourhood of each phase, as in Mesh.schedules.
        algorithm: what every site runs.
        problem: builds the problem of a site.
        options: how the sites run.
        seed: the run's seed.
        checkpoints: where each site's checkpoints go; {} for none.
        resume: where each site goes on, all after the same iteration; {} to begin.
        began: names of the sites with which the run began, if others have left since: each keeps its data.
        joining: the sites that join where the others go on; None for none.
        paces: how long an iteration of a site takes, where sites wait for nobody; 1 unless said.

    Attributes:
        sites: the loop of each site.
        histories: what each site saw of its run.
        snapshots: the mesh where it begins and after every iteration.
        seconds: wall clock of the iterations.
    """

    def __init__(
        self,
        schedules: Mapping[str, Sequence[Neighborhood]],
        algorithm: Algorithm[Any],
        problem: Callable[[SiteContext], Problem],
        options: RunOptions,
        seed: int = 0,
        checkpoints: Mapping[str, Checkpoints] = _NONE,
        resume: Mapping[str, Checkpoint] = _NONE,
        began: Sequence[str] = (),
        joining: Joining | None = None,
        paces: Mapping[str, float] = _NONE,
    ):
        if options.privacy.secure_aggregation:
            schedules = with_partners(schedules)
        boxes = inboxes(schedules)
        self.histories = {
            site: History(earlier=resume[site].history if site in resume else ()) for site in schedules
        }
        everyone = [*(began or schedules)]
        contexts = [
            SiteContext.here(site, everyone.index(site), len(everyone), seed, options.iterations)
            for site in schedules
        ]
        # all problems are built before any computes, so that what they may share is the same for each
        problems = {site.name: TakingTurns(site, problem) for site in contexts}
        joins = joining.sites if joining else ()
        secrets = _secrets(schedules, seed)
        far = hops(schedules) if options.until else 0
        with Generators().in_place():  # a site that goes on sets the states of its process
            sites = {
                site: SiteRun(
                    algorithm,
                    problems[site],
                    schedule,
                    InProcessLink(site, boxes),
                    self.histories[site],
                    options,
                    checkpoints.get(site),
                    resume.get(site),
                    [*schedules],
                    joining,
                    far,
                    secrets[site],
                )
                for site, schedule in sorted(schedules.items(), key=lambda named: named[0] in joins)
            }
        self.sites = {site: sites[site] for site in schedules}
        self._require_one_model()
        self._options, self._paces = options, paces
        self.seconds = 0.0
        self._first = next(iter(self.sites.values()))
        self._start = self._first.start
        self.snapshots = [self._snapshot(self._start)]

    def run(self) -> None:
        """All iterations; raises what SiteRun.turns raises."""
        for _ in self.steps():
            pass

    def steps(self) -> Iterator[Snapshot]:
        """Run one iteration of all sites for each snapshot asked for; of the fastest, if they do not wait."""
        if self._options.asynchronous:
            yield from self._steps_at_own_paces()
            return
        for iteration in count(self._start):
            started = time.perf_counter()
            turns = [site.turns(iteration) for site in self.sites.values()]
            for _ in zip(*turns, strict=True):  # each hands over its message before any goes on
                pass
            self.seconds += time.perf_counter() - started
            if self._first.ended:
                return
            self.snapshots.append(self._snapshot(iteration + 1))
            yield self.snapshots[-1]

    def _steps_at_own_paces(self) -> Iterator[Snapshot]:
        """Each site iterates whenever its time has come; all begin together."""
        turns = [site.turns(self._start) for site in self.sites.values()]
        for _ in zip(*turns, strict=True):
            pass
        latest = self._start
        due = [(self._paces.get(name, 1.0), number, latest) for number, name in enumerate(self.sites)]
        heapify(due)
        names = [*self.sites]
        while due:
            now, number, iteration = heappop(due)
            if iteration == latest:  # the first to go on from there
                latest += 1
                self.snapshots.append(self._snapshot(latest))
                yield self.snapshots[-1]
            site = self.sites[names[number]]
            started = time.perf_counter()
            site.iterate(iteration + 1)
            self.seconds += time.perf_counter() - started
            if not site.ended:
                heappush(due, (now + self._paces.get(site.site, 1.0), number, iteration + 1))

    @property
    def ending(self) -> Ending | None:
        """Which condition of run.until has ended it; None if none has."""
        return self._first.ending

    @property
    def ended(self) -> str | None:
        """Why it has ended before its last iteration, in words; None if it has not."""
        until = self._options.until
        return reason(until, self.ending, self.snapshots[-1].iteration, self._options.privacy)

    @property
    def mean(self) -> Tensor:
        """The mean of the sites' estimates now, (d,)."""
        return self._estimates().mean(dim=0)

    def metric_ranges(self) -> dict[str, tuple[float, float]]:
        """Least and greatest value over the sites of each metric's last evaluation."""
        metrics = [history.last_metrics for history in self.histories.values()]
        return {
            name: (min(values), max(values))
            for name in metrics[0]
            if (values := [site[name] for site in metrics if name in site])
        }

    def document(self) -> dict[str, Any]:
        """Snapshots and last metrics as one JSON document."""
        return {
            "sites": list(self.sites),
            "seconds": self.seconds,
            "ended": self.ended,
            "history": [
                {
                    "iteration": snapshot.iteration,
                    "consensus_distance": finite_or_none(snapshot.consensus_distance),
                    "mean": [finite_or_none(value) for value in snapshot.coordinates],
                    "loss": finite_or_none(snapshot.loss),
                }
                for snapshot in self.snapshots
            ],
            "metrics": {
                site: {name: finite_or_none(value) for name, value in history.last_metrics.items()}
                for site, history in self.histories.items()
            },
        }

    def _require_one_model(self) -> None:
        first, *others = self.sites.values()
        for site in others:
            mine, theirs = site.estimate, first.estimate
            if (mine.shape, mine.dtype) != (theirs.shape, theirs.dtype):
                raise ProblemError(
                    f"{site.site} has {_size(mine)} parameters, and {first.site} has {_size(theirs)}: "
                    "is its model another one?"
                )

    def _estimates(self) -> Tensor:
        return torch.stack([site.estimate for site in self.sites.values()])

    def _snapshot(self, iteration: int) -> Snapshot:
        x = self._estimates()
        mean = x.mean(dim=0)
        records = [history.iterations[-1] for history in self.histories.values() if history.iterations]
        losses = [record.loss for record in records if record.loss is not None]
        return Snapshot(
            iteration=iteration,
            consensus_distance=float(torch.linalg.matrix_norm(x - mean)),
            coordinates=tuple(mean[:_COORDINATES].tolist()),
            loss=sum(losses) / len(losses) if losses else None,
        )


def _secrets(schedules: Mapping[str, Sequence[Neighborhood]], seed: int) -> dict[str, Secrets]:
    """What sites and pairs of neighbours would make up for themselves: here a run can be repeated."""
    edges = [
        (peer, site) for site, schedule in schedules.items() for hood in schedule for peer in hood.in_weights
    ]
    pairs = pairs_of(edges, [*schedules])
    return {
        site: Secrets(sha256(f"{seed} {site}".encode()).digest(), repeatable(seed, schedule), pairs)
        for site, schedule in schedules.items()
    }


def _size(x: Tensor) -> str:
    return f"{len(x)} {str(x.dtype).removeprefix('torch.')}"


@contextmanager
def simulation_of(
    run: Run,
    mesh: Mesh,
    checkpoint_every: int | None = None,
    checkpoints: Mapping[str, Checkpoints] = _NONE,
    resume: Mapping[str, Checkpoint] = _NONE,
    paces: Mapping[str, float] = _NONE,
) -> Iterator[Simulation]:
    """The simulation of a topology file's run, with its problem as it would arrive at the sites.

    Raises:
        ProblemError: the problem cannot be built, or it failed.
        DeliveryError: it could not travel to the sites.
        KeyError, ImportError, ClassPathError, TypeError, ValueError: as algorithms.create raises.
        AlgorithmError, CheckpointError, GossipError, NonFiniteValue: as SiteRun raises.
    """
    options = replace(RunOptions.of(run), checkpoint_every=checkpoint_every)
    with delivered(run.problem) as problem:
        yield Simulation(
            mesh.schedules,
            configured(run),
            problem,
            options,
            run.seed,
            checkpoints,
            resume,
            paces=paces,
        )
