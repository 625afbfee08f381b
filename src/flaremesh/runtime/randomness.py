"""The global random number generators of torch, NumPy and Python, from which users' code may draw.

At a site a process has one of each, and they are seeded when the run begins. In the simulator the sites share
a process: each has states of its own, which are put in place while its problem is called.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from flaremesh.problems.generators import global_states, set_global_states
from flaremesh.problems.protocol import ClipsExamples, Problem, Resumable, SiteContext, Trains


def seed_all(seed: int) -> None:
    """Seed all of them with an integer of any size; NumPy takes 32 bits of it, torch 64."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed % 2**64)


def built(site: SiteContext, build: Callable[[SiteContext], Problem]) -> Problem:
    """Build the problem of a site: the generators hold the run's seed meanwhile, the site's afterwards."""
    seed_all(site.seed)
    try:
        return build(site)
    finally:
        seed_all(site.own_seed)


class Generators:
    """The states of all global generators, as one site has them.

    Attributes:
        states: as problems.generators.global_states gives them.
    """

    def __init__(self) -> None:
        self.states = global_states()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Make them the global states within the context; what is drawn there advances these states alone."""
        outside = global_states()
        set_global_states(self.states)
        try:
            yield
        finally:
            self.states = global_states()
            set_global_states(outside)


class TakingTurns(Problem):
    """A problem that shares its process with those of other sites, and draws from generators of its own.

    Args:
        site: the site to which it belongs.
        build: builds it.
    """

    def __init__(self, site: SiteContext, build: Callable[[SiteContext], Problem]):
        self._generators = Generators()
        with self._generators.in_place():
            self._problem = built(site, build)

    @override
    def initial(self) -> Tensor:
        with self._generators.in_place():
            return self._problem.initial()

    @override
    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        with self._generators.in_place():
            return self._problem.loss_and_gradient(x)

    @property
    def clips_examples(self) -> bool:
        """Whether the problem clips the gradient of each of its examples."""
        return isinstance(self._problem, ClipsExamples) and self._problem.clips_examples

    def clipped_gradient(self, x: Tensor, clip: float, least: int) -> Tensor:
        """The problem's gradient, clipped by example."""
        assert isinstance(self._problem, ClipsExamples), "it is asked for them only if it has them"
        with self._generators.in_place():
            return self._problem.clipped_gradient(x, clip, least)

    @property
    def trains(self) -> bool:
        """Whether the problem takes its local steps itself."""
        return isinstance(self._problem, Trains) and self._problem.trains

    def train(
        self, x: Tensor, steps: int, stepsize: float, shift: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        """The problem's steps."""
        assert isinstance(self._problem, Trains), "it is asked for steps only if it takes them"
        with self._generators.in_place():
            return self._problem.train(x, steps, stepsize, shift)

    @override
    def evaluate(self, x: Tensor) -> Mapping[str, float]:
        with self._generators.in_place():
            return self._problem.evaluate(x)

    @override
    def buffers(self) -> Tensor | None:
        return self._problem.buffers()

    @override
    def state(self, x: Tensor) -> Mapping[str, Tensor]:
        with self._generators.in_place():
            return self._problem.state(x)

    def snapshot(self) -> Mapping[str, Any]:
        """The problem's position, and the states of the generators that it draws from."""
        with self._generators.in_place():
            position = self._problem.snapshot() if isinstance(self._problem, Resumable) else None
        return {"problem": position, "generators": self._generators.states}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take up that position again, and these states."""
        with self._generators.in_place():
            if isinstance(self._problem, Resumable):
                self._problem.restore(snapshot["problem"])
            set_global_states(snapshot["generators"])
