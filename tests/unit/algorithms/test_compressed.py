"""LEAD and BEER on wires that compress: what their papers print, and the minimiser that others miss."""

from itertools import islice

import pytest
import torch
from reference_cases import LeastSquares, estimates, gradients_of, minimiser, ring, simulation

from flaremesh.algorithms import create
from flaremesh.problems.protocol import SiteContext


def scattered(site):
    return LeastSquares(site, scattered=True)


PROBLEMS = [scattered(SiteContext(f"site{i}", index=i, sites=8, seed=0)) for i in range(8)]
X = torch.stack([problem.initial() for problem in PROBLEMS])
AWAY = torch.from_numpy(ring()) - torch.eye(8, dtype=torch.float64)
STEPS = {"beer": (0.005, 0.2), "dgd": (0.005, 0.2), "lead": (0.02, 0.05)}
"""η and γ; LEAD bears less γ."""


def gradients(x):
    return gradients_of(PROBLEMS, x)


def compressed(x):
    """Of each row the greatest entry: top-k with a fifth of five."""
    return torch.zeros_like(x).scatter(1, x.abs().argmax(dim=1, keepdim=True), 1) * x


def copied(copy, vector):
    """What the sites know of a vector once the compressed difference to their copies of it is sent."""
    return copy + compressed(vector - copy)


def beer(known=copied):
    """X after each iteration; the copies begin with the first message."""
    eta, gamma = STEPS["beer"]
    x, v, h, g = X, gradients(X), torch.zeros_like(X), torch.zeros_like(X)
    while True:
        h, g = known(h, x), known(g, v)
        before = gradients(x)
        x = x + gamma * AWAY @ h - eta * v
        v = v + gamma * AWAY @ g + gradients(x) - before
        yield x


def lead(known=copied):
    """X after each iteration."""
    eta, gamma = STEPS["lead"]
    x, d, h = X - eta * gradients(X), torch.zeros_like(X), torch.zeros_like(X)
    while True:
        y = x - eta * gradients(x) - eta * d
        h = known(h, y)
        d = d - gamma / (2 * eta) * AWAY @ h
        x = x - eta * gradients(x) - eta * d
        yield x


def dgd():
    """X after each iteration."""
    eta, gamma = STEPS["dgd"]
    x, h = X, torch.zeros_like(X)
    while True:
        h = copied(h, x)
        x = x + gamma * AWAY @ h - eta * gradients(x)
        yield x


def error(x):
    return float((x - minimiser([1] * 8)).norm())


def error_after(published, iterations=2500):
    return error(next(islice(published, iterations, None)))


@pytest.mark.parametrize("published", [beer, lead, dgd])
def test_on_top_k_they_do_what_is_published(published):
    eta, gamma = STEPS[published.__name__]
    wire = {"encoding": "top-k", "fraction": 0.2, "gossip": gamma}
    run = simulation(ring(), create(published.__name__, stepsize=eta), scattered, 60, wire)
    for _, expected in zip(run.steps(), published(), strict=False):
        torch.testing.assert_close(estimates(run), expected, rtol=1e-9, atol=1e-9)


def test_on_top_k_beer_and_lead_come_to_the_minimiser_where_dgd_stays_beside_it():
    assert error_after(beer()) < 1e-8
    assert error_after(lead()) < 1e-8
    assert error_after(dgd()) > 0.1


@pytest.mark.parametrize("published", [beer, lead])
def test_by_compressed_vectors_without_copies_they_would_not(published):
    assert not error_after(published(lambda copy, vector: compressed(vector))) < 1e-2


@pytest.mark.parametrize("name", ["beer", "lead"])
def test_on_int8_they_come_to_the_minimiser(name):
    run = simulation(ring(), create(name, stepsize=0.01), scattered, 150, "int8")
    run.run()
    assert error(estimates(run)) < 1e-3
