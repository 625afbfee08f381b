"""One site's part of a run: send, receive, mix, update; the same code in a pod and in the simulator."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from flaremesh.algorithms import Algorithm, Vectors
from flaremesh.errors import FlaremeshError
from flaremesh.links import Key, Link
from flaremesh.metrics.sink import Evaluation, Iteration, MetricsSink
from flaremesh.problems.protocol import Problem, ProblemError
from flaremesh.runtime.vectors import payload_of, vector_of
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import Run


class NonFiniteValue(FlaremeshError):
    """A site's loss or iterate is NaN or infinite; the message names the site."""


@dataclass(frozen=True)
class RunOptions:
    """How a site runs, apart from the algorithm.

    Attributes:
        iterations: number of iterations.
        peer_timeout: seconds to wait for a neighbour.
        evaluate_every: iterations between evaluations, None for 20 evaluations a run; the first and the last
            iterate are always evaluated.
        stop_on_non_finite: raise NonFiniteValue instead of going on.
        mix_buffers: mix the problem's buffers too.
    """

    iterations: int
    peer_timeout: float = 60.0
    evaluate_every: int | None = None
    stop_on_non_finite: bool = True
    mix_buffers: bool = True

    @classmethod
    def of(cls, run: Run) -> "RunOptions":
        """The options that a topology file gives."""
        return cls(
            run.iterations, run.peer_timeout, run.evaluate_every, run.stop_on_non_finite, run.mix_buffers
        )

    def evaluates(self, iteration: int) -> bool:
        """Whether the estimate is evaluated after ``iteration`` iterations."""
        every = self.evaluate_every or max(1, self.iterations // 20)
        return iteration % every == 0 or iteration == self.iterations


@dataclass
class _Observed:
    """What is seen of the iteration under way."""

    started: float
    loss: Tensor | None = None
    consensus_distance: float = 0.0
    wait_seconds: float = 0.0
    gradient_seconds: float = 0.0


class SiteRun:
    """The loop of one site.

    Building it computes the first gradient and evaluates the initial point: no neighbour waits for that yet.
    An iteration has two halves, so that many sites can take turns in one thread: ``send`` hands the message
    to the link, ``advance`` computes the next state and waits for the neighbours where it must.

    Args:
        algorithm: the algorithm.
        problem: the site's objective.
        schedule: the site's neighbourhood of each phase; iteration k uses phase k mod len(schedule).
        link: the site's links.
        sink: hears of every iteration.
        options: see RunOptions.

    Attributes:
        problem: the site's objective.
        state: the algorithm's state.

    Raises:
        ProblemError: the problem failed.
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
        self._algorithm = algorithm
        self.problem = problem
        self._schedule = schedule
        self._link = link
        self._sink = sink
        self._options = options
        self._observed = _Observed(time.perf_counter())
        with self._blaming_the_problem():
            initial = problem.initial()
            self._buffers = problem.buffers() if options.mix_buffers else None
        self.state = algorithm.init(initial, self._gradient)
        self._evaluate(0)

    @property
    def site(self) -> str:
        """The site's name."""
        return self._schedule[0].site

    @property
    def estimate(self) -> Tensor:
        """The site's current estimate of the solution, (d,)."""
        return self._algorithm.estimate(self.state)

    def run(self) -> None:
        """All iterations; see ``advance`` for what is raised."""
        for iteration in range(self._options.iterations):
            self.send(iteration)
            self.advance(iteration)

    def save(self, path: Path) -> None:
        """Write the problem's model at the estimate as safetensors."""
        with self._blaming_the_problem():
            state = self.problem.state(self.estimate)
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)

    def send(self, iteration: int) -> None:
        """Hand this iteration's message to every out-neighbour."""
        self._observed = _Observed(time.perf_counter())
        parts = self._algorithm.message(self.state)
        if self._buffers is not None:
            parts = (*parts, self._buffers)
        self._lengths = [len(part) for part in parts]
        # the one copy out of live memory; links may keep it, so nothing mutates it
        self._sent = torch.cat(parts)
        payload = payload_of(self._sent)
        for peer in self._hood(iteration).out:
            self._link.send(peer, Key(iteration, 0, self.site), [payload])

    def advance(self, iteration: int) -> None:
        """Mix with the in-neighbours and update the state.

        Raises:
            NonFiniteValue: see RunOptions.stop_on_non_finite.
            ProblemError: the problem failed.
            LinkError: a neighbour's value did not come or does not fit, or the run was aborted.
        """
        self.state = self._algorithm.update(self.state, lambda: self._mixed(iteration), self._gradient)
        observed = self._observed
        record = Iteration(
            iteration=iteration + 1,
            loss=None if observed.loss is None else float(observed.loss),
            consensus_distance=observed.consensus_distance,
            seconds=time.perf_counter() - observed.started,
            wait_seconds=observed.wait_seconds,
            gradient_seconds=observed.gradient_seconds,
        )
        self._sink.iteration(record)
        if self._options.stop_on_non_finite and not (record.finite and _finite(self.estimate)):
            raise NonFiniteValue(
                f"{self.site} has a non-finite value at iteration {iteration + 1} (loss {record.loss}); "
                "a smaller stepsize may help"
            )
        if self._options.evaluates(iteration + 1):
            self._evaluate(iteration + 1)

    def _hood(self, iteration: int) -> Neighborhood:
        return self._schedule[iteration % len(self._schedule)]

    def _mixed(self, iteration: int) -> Vectors:
        hood = self._hood(iteration)
        started = time.perf_counter()
        received = self._link.receive(
            [Key(iteration, 0, peer) for peer in hood.in_weights], self._options.peer_timeout
        )
        self._observed.wait_seconds = time.perf_counter() - started
        mix = self._sent * hood.self_weight
        for key, payload in received.items():
            mix.add_(vector_of(payload, self._sent, key.sender), alpha=hood.in_weights[key.sender])
        mixed, sent = torch.split(mix, self._lengths), torch.split(self._sent, self._lengths)
        self._observed.consensus_distance = float(torch.linalg.vector_norm(mixed[0] - sent[0]))
        if self._buffers is None:
            return mixed
        # Statistics, not iterates: averaged with rows that sum to one even where only W's columns do, and as
        # a difference, because a gradient computed since the message was sent has updated them.
        row_sum = hood.self_weight + sum(hood.in_weights.values())
        self._buffers.add_(mixed[-1] / row_sum - sent[-1])
        return mixed[:-1]

    def _gradient(self, x: Tensor) -> Tensor:
        started = time.perf_counter()
        with self._blaming_the_problem():
            self._observed.loss, gradient = self.problem.loss_and_gradient(x)
        self._observed.gradient_seconds += time.perf_counter() - started
        return gradient

    def _evaluate(self, iteration: int) -> None:
        with self._blaming_the_problem():
            metrics = dict(self.problem.evaluate(self.estimate))
        self._sink.evaluation(Evaluation(iteration, metrics))

    @contextmanager
    def _blaming_the_problem(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise ProblemError(f"the problem of {self.site} failed", error) from error


def _finite(vector: Tensor) -> bool:
    least, greatest = torch.aminmax(vector)  # both are NaN if any element is
    return math.isfinite(least) and math.isfinite(greatest)
