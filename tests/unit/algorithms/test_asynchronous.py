"""Sites that wait for nobody: each has its own pace, and all come to the minimiser of the whole sum."""

import pytest
import torch
from reference_cases import LeastSquares, estimates, minimiser, ring, simulation

from flaremesh.algorithms import algorithm_class, asynchrony_unsoundness, create, names
from flaremesh.gossip import Gossip
from flaremesh.links import Key, LinkError, PeerTimeout
from flaremesh.links.inprocess import InProcessLink, inboxes
from flaremesh.problems.protocol import SiteContext
from flaremesh.runtime.history import History
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.site_run import SiteRun
from flaremesh.topology.neighborhood import Neighborhood

OPTIONS = {
    "gradient-tracking": {"stepsize": 0.006},
    "k-gt": {"stepsize": 0.003, "local_steps": 4, "outer": 0.5},
    "r-fast": {"stepsize": 0.0015, "local_steps": 4},
}
TARGET = 1e-2
ONE_IS_SLOW = {"site3": 10.0}
SLOW = {"site1": 3.7, "site3": 10.0}


def errors(name, paces, iterations=320):
    """The distance from the minimiser, after each iteration of the fastest sites."""
    run = simulation(ring(), create(name, **OPTIONS[name]), LeastSquares, iterations, paces=paces)
    return [float(torch.linalg.matrix_norm(estimates(run) - minimiser([1] * 8))) for _ in run.steps()]


def time_to(target, found):
    return next(time for time, error in enumerate(found, start=1) if error < target)


@pytest.mark.parametrize("name", OPTIONS)
def test_with_one_site_ten_times_slower_the_target_takes_little_longer(name):
    alike, one_slow = (time_to(TARGET, errors(name, paces)) for paces in ({}, ONE_IS_SLOW))
    assert one_slow < 1.3 * alike  # who waits takes ten times as long


def test_the_slow_sites_data_counts_as_much_as_everybodys():
    run = simulation(ring(4), create("r-fast", stepsize=0.004, local_steps=4), LeastSquares, 1100, paces=SLOW)
    run.run()
    assert float(torch.linalg.matrix_norm(estimates(run) - minimiser([1] * 4))) < 1e-11


def test_shares_that_were_sent_to_nobody_must_stay(monkeypatch):
    """The negative control: who gives as much whoever gets it loses some of the sum."""
    mix = Gossip.mix
    monkeypatch.setattr(Gossip, "mix", lambda self, hood, received, shared: mix(self, hood, received, 2 / 3))
    assert errors("r-fast", ONE_IS_SLOW)[-1] > 1


def test_once_a_site_has_done_its_iterations_the_others_end_and_are_evaluated():
    run = simulation(ring(), create("r-fast", stepsize=0.001), LeastSquares, 100, paces=ONE_IS_SLOW)
    run.run()
    last = {site: history.last_iteration for site, history in run.histories.items()}
    assert last.pop("site3") == 11
    assert set(last.values()) <= {99, 100}
    assert 100 in last.values()
    for site, history in run.histories.items():
        assert history.evaluations[-1].iteration == history.last_iteration, site


# what neighbours may do to such a site

BONN = Neighborhood("bonn", 0.5, {"kiel": 0.5}, ("kiel",))


class Alone:
    """bonn, whose neighbour kiel is the test."""

    def __init__(self, iterations=10, **options):
        boxes = inboxes(["bonn", "kiel"])
        self.kiel = InProcessLink("kiel", boxes)
        problem = LeastSquares(SiteContext("bonn", 0, 2, 0))
        options = RunOptions(iterations, asynchronous=True, **options)
        algorithm = create("r-fast", stepsize=0.001)
        link = InProcessLink("bonn", boxes)
        self.bonn = SiteRun(algorithm, problem, [BONN], link, History(), options)

    def send(self, iteration, part=0, payload=bytes(80)):
        self.kiel.send("bonn", Key(iteration, 0, "kiel", part), [payload])


def test_a_neighbour_is_waited_for_in_the_first_iteration_alone():
    alone = Alone()
    alone.send(0)
    alone.bonn.run()
    assert alone.bonn.estimate.isfinite().all()


def test_a_neighbour_that_takes_nothing_gets_one_message():
    alone = Alone()
    alone.send(0)
    alone.bonn.run()
    came = alone.kiel.arrived(["bonn"])
    assert [key.iteration for key in came] == [0, 10]  # and that the run is over
    assert list(came.values())[-1] == b""


def test_a_neighbour_that_is_silent_for_long_is_named():
    alone = Alone(iterations=10**9, peer_timeout=0.05)
    alone.send(0)
    with pytest.raises(PeerTimeout, match="no value from kiel"):
        alone.bonn.run()


@pytest.mark.parametrize(
    ("part", "payload", "message"),
    [
        (1, bytes(80), "kiel sent part 2 of a message, and part 1 is due"),
        (0, bytes(79), "kiel sent 79 bytes"),
    ],
)
def test_what_is_no_message_is_refused_with_its_senders_name(part, payload, message):
    alone = Alone()
    alone.send(0)
    alone.bonn.iterate(0)
    alone.send(1, part, payload)
    with pytest.raises(LinkError, match=message):
        alone.bonn.iterate(1)


def test_a_neighbour_that_sends_more_than_is_taken_does_not_fill_the_memory():
    alone = Alone()
    for iteration in range(8):
        alone.send(iteration)
    with pytest.raises(LinkError, match="kiel sends messages before its last ones are taken"):
        alone.bonn.iterate(0)


# what it needs


def unsound(name, **changed):
    sound = {"symmetric": True, "phases": 1, "keeps_copies": False}
    return asynchrony_unsoundness(algorithm_class(name), **sound | changed)


def test_it_is_sound_for_algorithms_that_say_so_alone():
    assert [name for name in names() if unsound(name) is None] == [
        "gradient-tracking",
        "k-gt",
        "local-dgd",
        "r-fast",
    ]
    assert "run gradient-tracking, k-gt or r-fast" in unsound("extra")


@pytest.mark.parametrize(
    ("changed", "remedy"),
    [
        ({"symmetric": False}, "write weights: metropolis"),
        ({"phases": 3}, "choose a graph that stays"),
        ({"keeps_copies": True}, "write wire: bfloat16 or exact"),
    ],
)
def test_where_it_is_unsound_a_remedy_is_told(changed, remedy):
    assert remedy in unsound("r-fast", **changed)
