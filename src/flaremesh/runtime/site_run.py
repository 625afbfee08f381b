"""One site's part of a run: send, receive, mix, update; the same code in a pod and in the simulator."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from flaremesh.algorithms import Algorithm, Vectors
from flaremesh.errors import FlaremeshError
from flaremesh.gossip import Gossip, Mixture
from flaremesh.links import Key, Link
from flaremesh.metrics.sink import Evaluation, Iteration, MetricsSink, Norms
from flaremesh.problems.protocol import Problem
from flaremesh.runtime.contract import CheckedProblem, fault_at_start
from flaremesh.runtime.vectors import floats
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import Run, Wire

_LOOK_SECONDS = 1.0  # between the looks at norms, which cost passes over the vectors


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
        wire: how vectors travel; a word or a mapping as in a topology file will do.
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


@dataclass
class _Observed:
    """What is seen of the iteration under way."""

    started: float
    look: bool = False  # at norms
    sent: float = 0.0
    loss: Tensor | None = None
    distance: Tensor | float = 0.0
    wait_seconds: float = 0.0
    gradient_seconds: float = 0.0
    overlap_seconds: float = 0.0
    mix_seconds: float = 0.0
    gradient_norm: Tensor | None = None
    mix: Tensor | None = None  # the first vector


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
        problem: the site's objective, checked.
        state: the algorithm's state.

    Raises:
        ProblemError: the problem failed, or gives what it should not.
        NonFiniteValue: see RunOptions.stop_on_non_finite.
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
        self._algorithm = algorithm
        self.problem = CheckedProblem(problem, schedule[0].site)
        self._schedule = schedule
        self._link = link
        self._sink = sink
        self._options = options
        self._observed = _Observed(time.perf_counter())
        self._looked = -math.inf
        self._untold: Iteration | None = None
        self._untold_norms: Norms | None = None
        self._started = False
        initial = self.problem.initial()
        if options.stop_on_non_finite and not bool(initial.isfinite().all()):
            raise NonFiniteValue(f"the initial point of {self.site} is not finite")
        self._buffers = self.problem.buffers() if options.mix_buffers else None
        if self._buffers is not None:
            self._first_buffers = self._buffers.clone()
        self._gossip = Gossip(options.wire, len(schedule), exact_last=self._buffers is not None)
        self.state = algorithm.init(initial, self._gradient)
        self.problem.state(self.estimate)  # what could not be saved at the end is told before the work
        self._evaluate(0)

    @property
    def site(self) -> str:
        """The site's name."""
        return self._schedule[0].site

    @property
    def iterations(self) -> int:
        """How many there will be."""
        return self._options.iterations

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
        # tied weights share memory, and the format demands that each tensor has its own
        state = self.problem.state(self.estimate)
        save_file(
            {
                name: tensor.cpu().clone(memory_format=torch.contiguous_format)
                for name, tensor in state.items()
            },
            path,
        )

    def send(self, iteration: int) -> None:
        """Hand this iteration's message to every out-neighbour.

        While it travels, the sink hears of the iteration before, if it has not yet.
        """
        started = time.perf_counter()
        self._observed = _Observed(started, look=started - self._looked >= _LOOK_SECONDS)
        hood = self._hood(iteration)
        vectors = self._algorithm.message(self.state)
        if self._buffers is not None:
            # states never change, but these do
            self._sent_buffers = self._buffers.clone()
            vectors = (*vectors, self._sent_buffers)
        self._publish(iteration, hood, vectors)
        self._observed.sent = time.perf_counter()
        self._tell()

    def advance(self, iteration: int) -> None:
        """Mix with the in-neighbours and update the state.

        Raises:
            NonFiniteValue: see RunOptions.stop_on_non_finite.
            ProblemError: the problem failed.
            LinkError: a neighbour's value did not come or does not fit, or the run was aborted.
        """
        self.state = self._algorithm.update(self.state, lambda: self._mixed(iteration), self._gradient)
        observed = self._observed
        loss, distance, finite = self._read()
        self._untold = record = Iteration(
            iteration=iteration + 1,
            loss=loss,
            consensus_distance=distance,
            seconds=time.perf_counter() - observed.started,
            wait_seconds=observed.wait_seconds,
            gradient_seconds=observed.gradient_seconds,
            overlap_seconds=observed.overlap_seconds,
            send_seconds=observed.sent - observed.started,
            mix_seconds=observed.mix_seconds,
            finite=finite,
        )
        if observed.look:
            self._look(iteration + 1)
        if self._options.stop_on_non_finite and not finite:
            self._tell()
            raise NonFiniteValue(
                f"{self.site} has a non-finite value at iteration {iteration + 1} (loss {record.loss}); "
                "a smaller stepsize may help, unless its data hold such values"
            )
        if self._options.evaluates(iteration + 1):
            self._tell()
            self._evaluate(iteration + 1)

    def _tell(self) -> None:
        if self._untold is not None:
            self._sink.iteration(self._untold)
            self._untold = None
        if self._untold_norms is not None:
            self._sink.norms(self._untold_norms)
            self._untold_norms = None

    def _look(self, iteration: int) -> None:
        observed = self._observed
        assert observed.mix is not None, "every algorithm mixes"
        # in place: of large models one more vector shows in the site's memory
        innovation = torch.linalg.vector_norm(observed.mix.sub_(self._algorithm.message(self.state)[0]))
        norms = [innovation] if observed.gradient_norm is None else [innovation, observed.gradient_norm]
        values = floats(*norms)
        self._untold_norms = Norms(iteration, values[1] if len(values) > 1 else None, values[0])
        self._looked = time.perf_counter()

    def _read(self) -> tuple[float | None, float, bool]:
        """Loss and consensus distance, and whether they and what is sent next are finite."""
        loss, distance = self._observed.loss, self._observed.distance
        if loss is None:  # what is sent next is a mixture, which is finite if the distance is
            (distance,) = floats(distance)
            return None, distance, math.isfinite(distance)
        # not the estimate: a neighbour would get a spoilt message and be blamed before the site that made it;
        # both extremes are NaN if any entry is
        values = floats(loss, distance, *torch.aminmax(self._algorithm.message(self.state)[0]))
        return values[0], values[1], all(map(math.isfinite, values))

    def _hood(self, iteration: int) -> Neighborhood:
        return self._schedule[iteration % len(self._schedule)]

    def _mixed(self, iteration: int) -> Vectors:
        hood = self._hood(iteration)
        self._observed.overlap_seconds = time.perf_counter() - self._observed.sent
        mixture = self._collect(iteration, hood)
        self._observed.distance = mixture.distance
        if self._observed.look:
            self._observed.mix = mixture.vectors[0].clone()  # the algorithm may work in the mixture's memory
        if self._buffers is None:
            return mixture.vectors
        self._mix_buffers(mixture.vectors[-1], hood.self_weight + sum(hood.in_weights.values()))
        return mixture.vectors[:-1]

    def _mix_buffers(self, mixed: Tensor, row_sum: float) -> None:
        """Mix the statistics among the buffers: what training changes. Constants, such as masks, stay.

        Averaged with rows that sum to one even where only W's columns do, and as a difference, because a
        gradient computed since the message was sent has updated them.
        """
        assert self._buffers is not None, "it is called where there are some"
        change = mixed / row_sum - self._sent_buffers
        constant = (self._buffers == self._first_buffers) | ~change.isfinite()
        self._buffers.add_(change.masked_fill_(constant, 0.0))

    def _publish(self, iteration: int, hood: Neighborhood, vectors: Vectors) -> None:
        """Hand a message to the out-neighbours."""
        payloads = self._gossip.publish(vectors)
        key = Key(iteration, 0, self.site)
        for peer in hood.out:
            self._link.send(peer, key, payloads)

    def _collect(self, iteration: int, hood: Neighborhood) -> Mixture:
        """Wait for the in-neighbours' messages, and mix them with the one that was published."""
        started = time.perf_counter()
        received = self._link.receive(
            [Key(iteration, 0, peer) for peer in hood.in_weights], self._options.peer_timeout
        )
        came = time.perf_counter()
        mixture = self._gossip.mix(hood, {key.sender: payload for key, payload in received.items()})
        self._observed.wait_seconds = came - started
        self._observed.mix_seconds = time.perf_counter() - came
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
