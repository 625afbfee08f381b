"""One site's part of a run: send, receive, mix, step; the same code in a pod and in the simulator."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from flaremesh.algorithms import Algorithm, Mixed, Vectors
from flaremesh.errors import FlaremeshError
from flaremesh.gossip import Gossip, Mixture, message_bytes
from flaremesh.links import Key, Link, send_in_time
from flaremesh.metrics.sink import Evaluation, Iteration, MetricsSink, Norms
from flaremesh.problems.protocol import Problem
from flaremesh.runtime.buffers import MixedBuffers
from flaremesh.runtime.checked_algorithm import AlgorithmError, CheckedAlgorithm
from flaremesh.runtime.contract import CheckedProblem, fault_at_start
from flaremesh.runtime.observation import Observation
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import Run, Wire

_LOOK_SECONDS = 1.0  # norms are taken so seldom, since each costs a pass over a vector


class NonFiniteValue(FlaremeshError):
    """A site's loss or iterate is NaN or infinite, or what it sent; the message names the site."""


@dataclass(frozen=True)
class RunOptions:
    """How a site runs, apart from the algorithm.

    Attributes:
        iterations: number of iterations.
        peer_timeout: seconds to wait for a neighbour.
        evaluate_every: iterations between evaluations, None for 20 evaluations a run; the first and the last
            iterate are always evaluated.
        stop_on_non_finite: raise NonFiniteValue where a loss, a gradient or a message is not finite.
        mix_buffers: mix the problem's buffers too.
        wire: how vectors travel; may be given as a word or a mapping, as in a topology file.
    """

    iterations: int
    peer_timeout: float = 60.0
    evaluate_every: int | None = None
    stop_on_non_finite: bool = True
    mix_buffers: bool = True
    wire: Wire = field(default_factory=Wire)

    def __post_init__(self) -> None:
        object.__setattr__(self, "wire", Wire.of(self.wire))

    @classmethod
    def of(cls, run: Run) -> "RunOptions":
        """The options that a topology file gives."""
        return cls(
            run.iterations,
            run.peer_timeout,
            run.evaluate_every,
            run.stop_on_non_finite,
            run.mix_buffers,
            run.wire,
        )

    def evaluates(self, iteration: int) -> bool:
        """Whether the estimate is evaluated after ``iteration`` iterations."""
        every = self.evaluate_every or max(1, self.iterations // 20)
        return iteration % every == 0 or iteration == self.iterations


class SiteRun:
    """The loop of one site.

    Building it computes the first message and evaluates the initial point, while no neighbour waits yet.
    From then on each message is computed, and checked to be finite, before any part of it is sent.

    Args:
        algorithm: the algorithm.
        problem: the site's objective.
        schedule: the site's neighbourhood of each phase; iteration k uses phase k mod len(schedule).
        link: the site's links.
        sink: hears of every iteration.
        options: how the site runs.

    Attributes:
        problem: the site's objective, checked.

    Raises:
        ProblemError: the problem failed, or gives what it should not.
        AlgorithmError: the algorithm's first message is not what it declares.
        NonFiniteValue: a value is not finite, and stop_on_non_finite is set.
        GossipError: the wire does not fit the schedule.
    """

    def __init__(
        self,
        algorithm: Algorithm[Any],
        problem: Problem,
        schedule: Sequence[Neighborhood],
        link: Link,
        sink: MetricsSink,
        options: RunOptions,
    ):
        self.problem = CheckedProblem(problem, schedule[0].site)
        self._schedule = schedule
        self._link = link
        self._sink = sink
        self._options = options
        self._looked = -math.inf
        self._untold: Iteration | None = None
        self._untold_norms: Norms | None = None
        self._started = False
        initial = self.problem.initial()
        if options.stop_on_non_finite and not bool(initial.isfinite().all()):
            raise NonFiniteValue(f"the initial point of {self.site} is not finite")
        buffers = self.problem.buffers() if options.mix_buffers else None
        self._buffers = None if buffers is None else MixedBuffers(buffers)
        # each exchange has public copies of its own; the buffers travel with the first exchange
        self._gossips = [
            Gossip(options.wire, len(schedule), exact_last=self._buffers is not None and stage == 0)
            for stage in range(len(algorithm.exchanges))
        ]
        self._observed = self._observation(-1)
        self._algorithm = CheckedAlgorithm(algorithm, initial, self._gradient)
        self._expect(algorithm, initial, buffers)
        self.problem.state(self.estimate)  # a model that cannot be saved fails now, not at the end
        self._evaluate(0)

    @property
    def site(self) -> str:
        """The site's name."""
        return self._schedule[0].site

    @property
    def iterations(self) -> int:
        """Number of iterations of the run."""
        return self._options.iterations

    @property
    def state(self) -> Any:
        """The algorithm's state."""
        return self._algorithm.state

    @property
    def estimate(self) -> Tensor:
        """The site's current estimate of the solution, (d,)."""
        return self._algorithm.estimate

    def run(self) -> None:
        """All iterations; see ``turns`` for what is raised."""
        for iteration in range(self._options.iterations):
            self.iterate(iteration)

    def iterate(self, iteration: int) -> None:
        """One iteration, without a pause; see ``turns``."""
        for _ in self.turns(iteration):
            pass

    def turns(self, iteration: int) -> Iterator[None]:
        """One iteration, which pauses after each message that it sends, before it waits for the neighbours'.

        That lets many sites take turns in one thread: each goes on once all have sent. While the first
        message travels, the record of the iteration before goes to the sink.

        Raises:
            NonFiniteValue: a value is not finite, and stop_on_non_finite is set.
            ProblemError: the problem failed.
            AlgorithmError: the algorithm does not exchange what it declares.
            LinkError: a neighbour's value did not come or does not fit, a neighbour takes nothing, or the run
                was aborted.
        """
        self._observed = observed = self._observation(iteration)
        for stage in range(self._algorithm.exchanges):
            self._send(observed, stage)
            if stage == 0:
                self._tell()
            yield
            self._resume(partial(self._mixed, observed, stage))
            self._record(observed)
        if observed.look:
            self._untold_norms = observed.norms(self._algorithm.message)
            self._looked = time.perf_counter()
        if self._options.evaluates(iteration + 1):
            self._tell()
            self._evaluate(iteration + 1)

    def save(self, path: Path) -> None:
        """Write the problem's model at the estimate as safetensors."""
        # tied weights share memory, and the format demands that each tensor has its own
        state = self.problem.state(self.estimate)
        save_file(
            {
                name: tensor.cpu().clone(memory_format=torch.contiguous_format)
                for name, tensor in state.items()
            },
            path,
        )

    def _observation(self, iteration: int) -> Observation:
        started = time.perf_counter()
        look = started - self._looked >= _LOOK_SECONDS
        return Observation(iteration, started, [0.0] * len(self._gossips), look)

    def _resume(self, mixed: Mixed) -> None:
        if self._algorithm.resume(mixed) and self._observed.under_way:
            raise AlgorithmError(
                f"{self._algorithm.name} never asks for the mixture of exchange "
                f"{min(self._observed.under_way) + 1}"
            )

    def _send(self, observed: Observation, stage: int) -> None:
        started = observed.pause_own_work()
        vectors = self._algorithm.message
        if self._buffers is not None and stage == 0:
            vectors = (*vectors, self._buffers.message())
        self._publish(observed.iteration, stage, vectors)
        observed.under_way.add(stage)
        observed.since = time.perf_counter()
        observed.send_seconds += observed.since - started

    def _record(self, observed: Observation) -> None:
        """Make the iteration's record, which `_tell` hands to the sink."""
        self._untold = record = observed.record(self._algorithm.message)
        if self._options.stop_on_non_finite and not record.finite:
            self._tell()
            raise NonFiniteValue(
                f"{self.site} has a non-finite value at iteration {record.iteration} (loss {record.loss}); "
                "a smaller stepsize may help, unless its data hold such values"
            )

    def _tell(self) -> None:
        if self._untold is not None:
            self._sink.iteration(self._untold)
            self._untold = None
        if self._untold_norms is not None:
            self._sink.norms(self._untold_norms)
            self._untold_norms = None

    def _hood(self, iteration: int) -> Neighborhood:
        return self._schedule[iteration % len(self._schedule)]

    def _mixed(self, observed: Observation, stage: int) -> Vectors:
        if stage not in observed.under_way:
            raise AlgorithmError(f"{self._algorithm.name} asks twice for the mixture of exchange {stage + 1}")
        observed.pause_own_work()
        mixture = self._collect(observed.iteration, stage)
        observed.under_way.remove(stage)
        observed.distances[stage] = mixture.distance
        if mixture.poisoned and self._options.stop_on_non_finite:
            self._untold = observed.record(self._algorithm.message)
            self._tell()
            raise NonFiniteValue(
                f"{' and '.join(mixture.poisoned)} sent {self.site} a value that is not finite in iteration "
                f"{observed.iteration + 1}. Sites check what they send, before the wire narrows it: "
                "that one diverges beyond the range of the wire, is broken, or means harm"
            )
        vectors = mixture.vectors
        if stage == 0:
            if observed.look:
                observed.mixture = vectors[0].clone()  # the algorithm may work in the mixture's memory
            if self._buffers is not None:
                self._buffers.mix(vectors[-1], self._hood(observed.iteration))
                vectors = vectors[:-1]
        observed.since = time.perf_counter()
        return vectors

    def _publish(self, iteration: int, stage: int, vectors: Vectors) -> None:
        """Hand a message to the out-neighbours."""
        payloads = self._gossips[stage].publish(vectors)
        key = Key(iteration, stage, self.site)
        for peer in self._hood(iteration).out:
            send_in_time(self._link, peer, key, payloads, self._options.peer_timeout)

    def _expect(self, algorithm: Algorithm[Any], initial: Tensor, buffers: Tensor | None) -> None:
        """Tell the link how long messages are: the neighbours' are as long as the own ones."""
        lengths = []
        for stage, exchange in enumerate(algorithm.exchanges):
            vectors = [
                initial.new_empty(length, device="meta") for length in exchange.lengths(initial.numel())
            ]
            last = [buffers] if buffers is not None and stage == 0 else []
            lengths.append(message_bytes(self._options.wire, [*vectors, *last], exact_last=bool(last)))
        self._link.expect(max(lengths, default=0))

    def _collect(self, iteration: int, stage: int) -> Mixture:
        """Wait for the in-neighbours' messages, and mix them with the one that was published."""
        hood, started = self._hood(iteration), time.perf_counter()
        received = self._link.receive(
            [Key(iteration, stage, peer) for peer in hood.in_weights], self._options.peer_timeout
        )
        came = time.perf_counter()
        mixture = self._gossips[stage].mix(hood, {key.sender: payload for key, payload in received.items()})
        self._observed.wait_seconds += came - started
        self._observed.mix_seconds += time.perf_counter() - came
        return mixture

    def _gradient(self, x: Tensor) -> Tensor:
        started = time.perf_counter()
        self._observed.loss, gradient = self.problem.loss_and_gradient(x)
        if not self._started:
            self._started = True
            wrong = fault_at_start(self.site, self._observed.loss, gradient)
            if wrong and self._options.stop_on_non_finite:
                raise NonFiniteValue(wrong)
        if self._observed.look:
            self._observed.gradient_norm = torch.linalg.vector_norm(gradient)
        self._observed.gradient_seconds += time.perf_counter() - started
        return gradient

    def _evaluate(self, iteration: int) -> None:
        started = time.perf_counter()
        metrics = self.problem.evaluate(self.estimate)
        self._sink.evaluation(Evaluation(iteration, metrics, time.perf_counter() - started))
