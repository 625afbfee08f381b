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

from flaremesh.problems.protocol import Problem, SiteContext


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
    """The states of all global generators, as one site has them."""

    def __init__(self) -> None:
        self._states = _states()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Make them the global states within the context; what is drawn there advances these states alone."""
        outside = _states()
        _set(self._states)
        try:
            yield
        finally:
            self._states = _states()
            _set(outside)


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
    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with self._generators.in_place():
            return self._problem.loss_and_gradient(x)

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


def _states() -> tuple[Any, ...]:
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    gpu = torch.cuda.get_rng_state() if started else None
    return random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state(), gpu


def _set(states: tuple[Any, ...]) -> None:
    python, numpy, cpu, gpu = states
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if gpu is not None:
        torch.cuda.set_rng_state(gpu)
