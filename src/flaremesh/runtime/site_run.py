"""One site's part of a run: send, receive, mix, update; the same code in a pod and in the simulator."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flaremesh.algorithms import Algorithm, Vectors
from flaremesh.links import Key, Link, Payload
from flaremesh.metrics.sink import Evaluation, Iteration, MetricsSink
from flaremesh.problems.protocol import Problem
from flaremesh.topology.neighborhood import Neighborhood


class NonFiniteValue(Exception):
    """The site's iterate or loss is NaN or infinite."""


@dataclass(frozen=True)
class RunOptions:
    """How a site runs, apart from the algorithm.

    Attributes:
        iterations: number of iterations.
        peer_timeout: seconds to wait for a neighbour.
        evaluate_every: iterations between evaluations; the first and the last iterate are always evaluated.
        stop_on_non_finite: raise NonFiniteValue instead of going on.
        mix_buffers: mix the problem's buffers too.
    """

    iterations: int
    peer_timeout: float
    evaluate_every: int
    stop_on_non_finite: bool = True
    mix_buffers: bool = True


class SiteRun:
    """The loop of one site.

    A site's iteration has two halves, so that many sites can take turns in one thread: ``send`` hands the
    message to the link, ``advance`` computes the next state and waits for the neighbours where it must.

    Args:
        algorithm: the algorithm.
        problem: the site's objective.
        schedule: the site's neighbourhood of each phase; iteration k uses phase k mod len(schedule).
        link: the site's links.
        sink: hears of every iteration.
        options: see RunOptions.
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
        self._problem = problem
        self._schedule = schedule
        self._link = link
        self._sink = sink
        self._options = options
        self._loss: Tensor | None = None
        self._gradient_seconds = 0.0
        self.state = algorithm.init(problem.initial(), self._gradient)
        self._evaluate(0)

    @property
    def estimate(self) -> Tensor:
        """The site's current estimate of the solution, (d,)."""
        return self._algorithm.estimate(self.state)

    def run(self) -> None:
        """All iterations."""
        for iteration in range(self._options.iterations):
            self.send(iteration)
            self.advance(iteration)

    def send(self, iteration: int) -> None:
        """Hand this iteration's message to every out-neighbour."""
        self._started = time.perf_counter()
        self._gradient_seconds = 0.0
        message = self._algorithm.message(self.state)
        buffers = self._problem.buffers() if self._options.mix_buffers else None
        # torch.cat is the one copy out of live memory; nothing mutates the result while links still hold it
        self._message = torch.cat([*message, buffers] if buffers is not None else [*message])
        self._lengths = [len(vector) for vector in message]
        self._buffers = buffers
        payload = _bytes_of(self._message)
        hood = self._hood(iteration)
        for peer in hood.out:
            self._link.send(peer, Key(iteration, 0, hood.site), [payload])

    def advance(self, iteration: int) -> None:
        """Mix with the in-neighbours and update the state."""
        hood = self._hood(iteration)
        wait_seconds = 0.0
        distance = torch.zeros(())

        def mixed() -> Vectors:
            nonlocal wait_seconds, distance
            started = time.perf_counter()
            keys = [Key(iteration, 0, peer) for peer in hood.in_weights]
            received = self._link.receive(keys, self._options.peer_timeout) if keys else {}
            wait_seconds = time.perf_counter() - started
            mix = self._mix(hood, {key.sender: payload for key, payload in received.items()})
            vectors = mix[: sum(self._lengths)]
            distance = torch.linalg.vector_norm(vectors - self._message[: len(vectors)])
            if self._buffers is not None:
                # buffers hold statistics, not iterates: rows must sum to one even where W's columns do
                self._buffers.copy_(mix[len(vectors) :] / (hood.self_weight + sum(hood.in_weights.values())))
            return torch.split(vectors, self._lengths)

        self.state = self._algorithm.update(self.state, mixed, self._gradient)
        loss = float(self._loss) if self._loss is not None else None
        record = Iteration(
            iteration=iteration + 1,
            loss=loss,
            consensus_distance=float(distance),
            seconds=time.perf_counter() - self._started,
            wait_seconds=wait_seconds,
            gradient_seconds=self._gradient_seconds,
        )
        self._sink.iteration(record)
        if self._options.stop_on_non_finite and not record.finite:
            raise NonFiniteValue(f"non-finite value at iteration {iteration + 1}: loss {loss}, consensus distance {float(distance)}")
        if (iteration + 1) % self._options.evaluate_every == 0 or iteration + 1 == self._options.iterations:
            self._evaluate(iteration + 1)

    def _hood(self, iteration: int) -> Neighborhood:
        return self._schedule[iteration % len(self._schedule)]

    def _mix(self, hood: Neighborhood, received: dict[str, Payload]) -> Tensor:
        mix = self._message * hood.self_weight
        for peer, weight in hood.in_weights.items():
            mix.add_(_vector_of(received[peer], self._message, peer), alpha=weight)
        return mix

    def _gradient(self, x: Tensor) -> Tensor:
        started = time.perf_counter()
        self._loss, gradient = self._problem.loss_and_gradient(x)
        self._gradient_seconds += time.perf_counter() - started
        return gradient

    def _evaluate(self, iteration: int) -> None:
        self._sink.evaluation(Evaluation(iteration, dict(self._problem.evaluate(self.estimate))))


def _bytes_of(vector: Tensor) -> memoryview:
    return memoryview(vector.detach().cpu().contiguous().view(torch.uint8).numpy())


def _vector_of(payload: Payload, like: Tensor, peer: str) -> Tensor:
    if len(payload) != like.numel() * like.element_size():
        raise ValueError(f"{peer} sent {len(payload)} bytes, expected {like.numel() * like.element_size()}: another model or problem?")
    return torch.frombuffer(payload, dtype=like.dtype).to(like.device)
