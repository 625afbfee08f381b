"""Iterations with several exchanges: what overlaps with which, and algorithms that break their word."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from flaremesh.algorithms import Exchange, Weights, create
from flaremesh.links.inprocess import InProcessLink, inboxes
from flaremesh.problems.consensus import Consensus
from flaremesh.problems.protocol import SiteContext
from flaremesh.runtime.checked_algorithm import AlgorithmError
from flaremesh.runtime.history import History
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.simulate import Simulation
from flaremesh.runtime.site_run import NonFiniteValue, SiteRun
from flaremesh.topology.neighborhood import Neighborhood, neighborhoods

BONN = Neighborhood("bonn", self_weight=0.5, in_weights={"kiel": 0.5}, out=("kiel",))
PAIR = np.full((2, 2), 0.5)


class Echo(InProcessLink):
    """Kiel answers with what it gets; all that happens is noted."""

    def __init__(self, events):
        super().__init__("bonn", inboxes(["bonn"]))
        self.events = events

    def send(self, peer, key, buffers):
        self.events.append(f"send {key.stage}")
        super().send("bonn", key._replace(sender="kiel"), buffers)

    def expect(self, length):
        pass

    def receive(self, keys, timeout):
        self.events.append(f"wait {keys[0].stage}")
        return super().receive(keys, timeout)


class Noting(Consensus):
    """Notes when its gradient is asked for."""

    def __init__(self, events):
        super().__init__(SiteContext("bonn", 0, 2, 0), {"bonn": [1.0, 3.0]})
        self.events = events

    def loss_and_gradient(self, x):
        self.events.append("gradient")
        return super().loss_and_gradient(x)


def echoed(algorithm, **options):
    """A site whose neighbour answers with what it gets, and the list of what happens."""
    events = []
    history = History()
    run = SiteRun(algorithm, Noting(events), [BONN], Echo(events), history, RunOptions(3, **options))
    events.clear()
    return run, events, history


@dataclass(frozen=True)
class Mean:
    """Consensus; each test's algorithm goes about it in its own way."""

    weights = Weights.DOUBLY_STOCHASTIC
    exchanges = (Exchange(),)

    def init(self, x0, gradient):
        return (x0,)

    def estimate(self, state):
        return state[0]


@dataclass(frozen=True)
class Split(Mean):
    """Two exchanges are under way at once; the gradient is computed while the second one travels."""

    exchanges = (Exchange(), Exchange())

    def step(self, state, gradient):
        (x,) = state
        first = yield (x,)
        second = yield (2 * x,)
        (wx,) = first()
        gradient(wx)
        second()
        return (wx,)


def test_exchanges_may_be_under_way_together_and_work_overlaps_with_each():
    run, events, history = echoed(Split())
    run.iterate(0)
    assert events == ["send 0", "send 1", "wait 0", "gradient", "wait 1"]
    (record,) = history.iterations
    assert record.overlap_seconds >= record.gradient_seconds > 0


def test_the_seconds_of_an_iteration_are_sums_over_its_exchanges_and_fit_into_it():
    run, _, history = echoed(Split())
    run.iterate(0)
    (record,) = history.iterations
    phases = (record.send_seconds, record.overlap_seconds, record.wait_seconds, record.mix_seconds)
    assert min(phases) > 0
    assert sum(phases) <= record.seconds


def test_in_the_simulator_all_sites_send_before_any_of_them_waits():
    sites = ["bonn", "kiel"]
    hoods = neighborhoods(sites, PAIR)
    run = Simulation(
        {site: [hoods[site]] for site in sites}, Split(), Consensus, RunOptions(4, peer_timeout=0.0)
    )
    mean = run.mean
    run.run()
    assert all(torch.allclose(site.estimate, mean) for site in run.sites.values())


@pytest.mark.parametrize("wire", ["int8", {"encoding": "top-k", "fraction": 1.0}])
def test_each_exchange_has_public_copies_of_its_own(wire):
    """One set for both would hold x + 2x."""
    run, _, _ = echoed(Split(), wire=wire)
    run.run()
    for gossip, expected in zip(run._exchanges.snapshot()["gossip"], (1, 2), strict=True):
        own = gossip[0][""]
        torch.testing.assert_close(
            own, expected * torch.tensor([1.0, 3.0], dtype=own.dtype), rtol=1e-2, atol=0
        )


class Spoilt(Noting):
    """From its second gradient on, an entry is infinite, and the loss is not."""

    def loss_and_gradient(self, x):
        loss, gradient = super().loss_and_gradient(x)
        self.seen = getattr(self, "seen", 0) + 1
        return loss, gradient if self.seen < 2 else torch.tensor([0.0, math.inf], dtype=x.dtype)


def test_a_message_of_the_second_exchange_that_is_not_finite_is_never_sent():
    events, history = [], History()
    algorithm = create("gradient-tracking-atc", stepsize=0.1)
    run = SiteRun(algorithm, Spoilt(events), [BONN], Echo(events), history, RunOptions(3))
    with pytest.raises(NonFiniteValue, match="bonn has a non-finite value at iteration 1 "):
        run.iterate(0)
    assert [event for event in events if event.startswith("send")] == ["send 0"]
    assert not history.iterations[0].finite


def test_a_tracker_that_is_not_finite_is_not_sent_beside_an_iterate_that_is():
    events = []
    algorithm = create("gradient-tracking", stepsize=0.1)
    run = SiteRun(algorithm, Spoilt(events), [BONN], Echo(events), History(), RunOptions(3))
    with pytest.raises(NonFiniteValue, match="bonn has a non-finite value at iteration 1 "):
        run.run()
    assert [event for event in events if event.startswith("send")] == ["send 0"]


# Algorithms that break their word: the site that runs one fails by name, before or instead of waiting.


class Fewer(Mean):
    exchanges = (Exchange(), Exchange())

    def step(self, state, gradient):
        mixed = yield state
        return mixed()


class Mute(Mean):
    def step(self, state, gradient):
        if state is None:
            yield state
        return state


class More(Mean):
    def step(self, state, gradient):
        mixed = yield state
        mixed = yield mixed()
        return mixed()


class Longer(Mean):
    def step(self, state, gradient):
        mixed = yield (*state, *state)
        return mixed()


class Bare(Mean):
    def step(self, state, gradient):
        mixed = yield state[0]
        return mixed()


class Numeric(Mean):
    def step(self, state, gradient):
        mixed = yield (float(state[0].sum()),)
        return mixed()


class Deaf(Mean):
    def step(self, state, gradient):
        yield state
        return state


class Twice(Mean):
    def step(self, state, gradient):
        mixed = yield state
        mixed()
        return mixed()


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (Fewer, "Fewer declares 2 exchanges, and its iteration is over after 1"),
        (Mute, "Mute declares 1 exchange, and its iteration is over after 0"),
        (More, "More declares 1 exchange, and yields another message"),
        (Longer, "Longer yields vectors of lengths 2, 2 in exchange 1, and declares vectors of lengths 2"),
        (Bare, "Bare yields a Tensor, no tuple, in exchange 1, and declares vectors of lengths 2"),
        (Numeric, "Numeric yields a float, no tensor, in exchange 1, and declares vectors of lengths 2"),
        (Deaf, "Deaf never asks for the mixture of exchange 1"),
        (Twice, "Twice asks twice for the mixture of exchange 1"),
    ],
)
def test_an_algorithm_that_does_not_exchange_what_it_declares_fails_by_name(algorithm, message):
    with pytest.raises(AlgorithmError, match=message):
        echoed(algorithm())[0].iterate(0)


class Moody(Mean):
    """Sends a second message in the iterations after the first."""

    def init(self, x0, gradient):
        return (x0, 0)

    def step(self, state, gradient):
        x, iteration = state
        mixed = yield (x,)
        (x,) = mixed()
        if iteration:
            mixed = yield (x,)
            mixed()
        return (x, iteration + 1)


class Weary(Moody):
    """Sends nothing in the iterations after the first."""

    def step(self, state, gradient):
        x, iteration = state
        if not iteration:
            mixed = yield (x,)
            (x,) = mixed()
        return (x, iteration + 1)


def test_an_algorithm_that_falls_silent_fails_by_name_before_anybody_waits_for_it():
    with pytest.raises(AlgorithmError, match="Weary declares 1 exchange, and its iteration is over after 0"):
        echoed(Weary())[0].iterate(0)


def test_a_number_of_exchanges_that_changes_is_found_when_it_does_and_nobody_waits_for_it():
    sites = ["bonn", "kiel"]
    hoods = neighborhoods(sites, PAIR)
    run = Simulation({site: [hoods[site]] for site in sites}, Moody(), Consensus, RunOptions(4))
    with pytest.raises(AlgorithmError, match="Moody declares 1 exchange, and yields another message"):
        run.run()
    assert len(run.snapshots) == 2
