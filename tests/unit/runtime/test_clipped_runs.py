"""Whole runs whose mixing is clipped, with a site that means harm."""

import numpy as np
import pytest
import torch

from flaremesh.algorithms import create
from flaremesh.gossip import GossipError
from flaremesh.problems.consensus import Consensus
from flaremesh.runtime.checked_algorithm import AlgorithmError
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.simulate import Simulation
from flaremesh.topology.neighborhood import neighborhoods

SITES = [f"site{i}" for i in range(8)]
HOSTILE = SITES[3]
MINIMISER = torch.arange(5.0, dtype=torch.float64)


def circulant(*shifts):
    """Equal weights over a site and those so many places away on a circle of eight."""
    w = np.eye(8) + sum(np.roll(np.eye(8), s, axis=1) + np.roll(np.eye(8), -s, axis=1) for s in shifts)
    return w / w[0].sum()


FOUR = circulant(1, 2)


class Bowl:
    """f(x) = (c/2)‖x − b_i‖² with c = 1; at the hostile site c = −20, the sign of its gradient is flipped.

    Args:
        site: the site.
        spread: how far the sites' own minimisers b_i are from MINIMISER, their mean without the hostile one.
    """

    def __init__(self, site, spread=0.0):
        directions = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        honest = torch.tensor([name != HOSTILE for name in SITES])
        directions -= directions[honest].mean(dim=0)
        self._minimiser = MINIMISER + spread * directions[site.index]
        self._curvature = -20.0 if site.name == HOSTILE else 1.0

    def initial(self):
        return torch.ones(5, dtype=torch.float64)

    def loss_and_gradient(self, x):
        difference = x - self._minimiser
        return 0.5 * self._curvature * difference.dot(difference), self._curvature * difference

    def evaluate(self, x):
        return {}

    def buffers(self):
        return None

    def state(self, x):
        return {"x": x}


def simulated(w, clip, iterations=100, spread=0.0, algorithm="dgd-atc", problem=None, **options):
    hoods = neighborhoods(SITES, w)
    run = Simulation(
        {site: [hoods[site]] for site in SITES},
        create(algorithm, stepsize=0.1),
        problem or (lambda site: Bowl(site, spread)),
        RunOptions(iterations, evaluate_every=iterations, mixing={"clip": clip}, **options),
    )
    run.run()
    return run


def error(run):
    """The greatest distance of an honest site from the honest sites' minimiser."""
    return max(
        float((site.estimate - MINIMISER).norm()) for name, site in run.sites.items() if name != HOSTILE
    )


@pytest.mark.parametrize(
    "algorithm", ["dgd", "dgd-cta", "dgd-atc", "local-dgd", "noloco", "quasi-global-momentum"]
)
def test_with_one_sign_flipping_site_of_eight_plain_mixing_diverges_and_clipped_mixing_converges(algorithm):
    assert error(simulated(FOUR, None, algorithm=algorithm)) > 1e4
    assert error(simulated(FOUR, "auto", algorithm=algorithm)) < 0.05


@pytest.mark.parametrize("w", [circulant(1), circulant(1, 2, 3)], ids=["two", "six"])
def test_with_any_number_of_neighbours_it_converges_as_if_the_hostile_site_were_not_there(w):
    assert error(simulated(w, None)) > 1e3
    assert error(simulated(w, "auto")) == pytest.approx(0.9**100 * float((1 - MINIMISER).norm()), rel=1e-3)


@pytest.mark.parametrize("wire", ["float32", "int8"])
def test_it_converges_by_a_wire_that_narrows(wire):
    assert error(simulated(FOUR, "auto", wire=wire)) < 1e-3


class Sender(Bowl):
    """At the hostile site a gradient by which it always sends what it likes to.

    Args:
        site: the site.
        sent: what it sends of iteration k, in every entry.
    """

    def __init__(self, site, sent):
        super().__init__(site)
        self._sent = sent if site.name == HOSTILE else None
        self._iteration = 0

    def loss_and_gradient(self, x):
        if self._sent is None:
            return super().loss_and_gradient(x)
        self._iteration += 1
        return x.sum(), (x - self._sent(self._iteration)) / 0.1


@pytest.mark.parametrize(
    "sent",
    [lambda k: 1e6, lambda k: float(k), lambda k: 3 + 0.01 * k],
    ids=["constant", "drift", "slow drift"],
)
def test_with_a_site_of_eight_that_sends_what_it_likes_the_others_find_their_minimiser(sent):
    run, plain = (
        simulated(FOUR, clip, 150, problem=lambda site: Sender(site, sent)) for clip in ("auto", None)
    )
    assert error(run) < 0.05 < error(plain)
    neighbours = [site for name, site in run.sites.items() if site.clips[HOSTILE]]
    assert len(neighbours) == 4
    assert all(site.clips[HOSTILE] == max(site.clips.values()) > 50 for site in neighbours)


def test_the_hostile_site_is_clipped_by_all_and_the_honest_ones_by_little():
    clips = {name: site.clips for name, site in simulated(FOUR, "auto").sites.items()}
    neighbours = [site for site, counted in clips.items() if counted[HOSTILE]]
    assert len(neighbours) == 4
    assert all(clips[site][HOSTILE] > 0.9 * 100 for site in neighbours)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_radius_of_ones_own_bounds_how_far_the_hostile_site_leads_the_others(asynchronous):
    """To where the gradient x − b outweighs what clipping lets in: w_ij τ/α."""
    run = simulated(FOUR, 0.1, algorithm="local-dgd", asynchronous=asynchronous)
    assert error(run) < 1.05 * 0.2 * 0.1 / 0.1


def test_where_honest_objectives_differ_the_sites_stay_about_as_near_as_these_are_apart():
    assert error(simulated(FOUR, "auto", spread=0.1)) < 0.1


def test_who_sends_what_is_not_finite_is_clipped_to_nothing_in_a_run_that_does_not_stop():
    class Broken(Consensus):
        def loss_and_gradient(self, x):
            loss, gradient = super().loss_and_gradient(x)
            return loss, torch.full_like(gradient, torch.nan)

    run = simulated(
        FOUR,
        "auto",
        problem=lambda site: (Broken if site.name == HOSTILE else Consensus)(site, dimension=3),
        stop_on_non_finite=False,
    )
    for name, site in run.sites.items():
        assert bool(site.estimate.isfinite().all()) == (name != HOSTILE)


def test_what_relies_on_sums_is_refused_at_the_site_too():
    with pytest.raises(AlgorithmError, match=r"and GradientTracking needs one, .*remove mixing\.clip"):
        simulated(FOUR, "auto", algorithm="gradient-tracking")


def test_a_site_with_nobody_to_compare_its_neighbour_with_is_named():
    path = np.diag([3.0, *[2.0] * 6, 3.0]) + np.diag(np.ones(7), 1) + np.diag(np.ones(7), -1)
    with pytest.raises(GossipError, match="site0 has a single one"):
        simulated(path / 4, "auto")
