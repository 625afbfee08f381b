"""What is left of the algorithms' accuracy and rates when messages are rounded or compressed."""

from functools import partial

import numpy as np
import pytest
import torch
from reference_cases import (
    LeastSquares,
    contraction,
    directed_ring_with_chords,
    estimates,
    fitted_rate,
    minimiser,
    random_graph,
    ring,
    simulation,
    strong_convexity,
)

from flaremesh.algorithms import create
from flaremesh.gossip import gossip
from flaremesh.gossip.public import Values
from flaremesh.problems.consensus import Consensus
from flaremesh.problems.digits import Digits

vectors = partial(Consensus, dimension=200)
TOP_FIFTH = {"encoding": "top-k", "fraction": 0.2}
GRAPHS = pytest.mark.parametrize("w", [ring(), random_graph()], ids=["ring", "random"])

CASTS = {"float32": 2**-24, "float16": 2**-11, "bfloat16": 2**-8}
"""Encodings without memory, and the relative error of one number."""
COPIES = {"int8": "int8", "top-k": TOP_FIFTH}
"""Encodings with error feedback."""


def parametrized(wires):
    return pytest.mark.parametrize("wire", wires.values(), ids=wires.keys())


def distances(run):
    """The consensus distance of every iteration, relative to the first."""
    run.run()
    return [s.consensus_distance / run.snapshots[0].consensus_distance for s in run.snapshots]


def errors(run, solution):
    """The distance of all sites' estimates from ``solution`` after every iteration, relative to the start."""
    start = torch.linalg.matrix_norm(estimates(run) - solution)
    return [float(torch.linalg.matrix_norm(estimates(run) - solution) / start) for _ in run.steps()]


# consensus


@GRAPHS
@pytest.mark.parametrize("cast", CASTS)
def test_rounding_leaves_consensus_an_error_of_the_size_of_its_rounding(cast, w):
    found = distances(simulation(w, create("consensus"), vectors, 200, cast))
    assert all(distance <= contraction(w) ** k + 2 * CASTS[cast] for k, distance in enumerate(found))
    assert CASTS[cast] / 10 < max(found[150:]) < 2 * CASTS[cast]


@GRAPHS
def test_int8_with_public_copies_converges_to_the_mean_as_fast_as_exact_messages(w):
    found = distances(simulation(w, create("consensus"), vectors, 200, "int8"))
    assert fitted_rate(found, 50, 100) == pytest.approx(contraction(w), rel=2e-3)
    assert found[-1] < 1e-14


def star():
    """Metropolis weights of eight sites, the first of which is the centre."""
    w = np.zeros((8, 8))
    w[0, 1:] = w[1:, 0] = 1 / 8
    return w + np.diag(1 - w.sum(axis=1))


SHAPES = {"ring": ring(), "random": random_graph(), "star": star(), "complete": np.full((8, 8), 1 / 8)}


@pytest.mark.parametrize("w", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.2])
def test_top_k_with_its_default_step_converges_at_the_rate_of_the_lazy_matrix(fraction, w):
    wire = {"encoding": "top-k", "fraction": fraction}
    found = distances(simulation(w, create("consensus"), vectors, 120, wire))
    step = fraction
    assert fitted_rate(found, 60, 120) == pytest.approx(1 - step * (1 - contraction(w)), rel=0.02)


def test_top_k_with_the_step_of_the_theorem_stays_below_the_bound_of_the_theorem():
    """Koloskova, Stich and Jaggi 2019, theorem 2: e_k ≤ (1 − δ²ω/82)ᵏ e₀."""
    w, fraction = ring(), 0.2
    delta, beta, omega = 1 - contraction(w), float(np.linalg.norm(np.eye(8) - w, 2)), fraction
    step = delta**2 * omega / (16 * delta + delta**2 + 4 * beta**2 + 2 * delta * beta**2 - 8 * delta * omega)
    wire = {"encoding": "top-k", "fraction": fraction, "gossip": step}
    run = simulation(w, create("consensus"), partial(Consensus, dimension=20), 2000, wire)
    x = estimates(run)
    kept = torch.zeros_like(x).scatter_(1, x.abs().topk(4).indices, 1)
    start = run.snapshots[0].consensus_distance ** 2 + float(((1 - kept) * x).square().sum())
    for k, snapshot in enumerate(run.steps(), start=1):
        assert snapshot.consensus_distance**2 <= (1 - delta**2 * omega / 82) ** k * start
    assert run.snapshots[-1].consensus_distance < 0.7 * run.snapshots[0].consensus_distance


@pytest.mark.parametrize("step", [0.2, 1.0])
def test_top_k_without_public_copies_never_agrees(step, monkeypatch):
    monkeypatch.setattr(gossip, "PublicCopies", Values)
    found = distances(simulation(ring(), create("consensus"), vectors, 1000, TOP_FIFTH | {"gossip": step}))
    assert min(found) > 0.3


# gradient tracking


@pytest.mark.parametrize(
    "cast", [pytest.param(cast, marks=() if cast == "bfloat16" else pytest.mark.full) for cast in CASTS]
)
def test_rounding_leaves_gradient_tracking_an_error_of_the_size_of_its_rounding(cast):
    run = simulation(ring(), create("gradient-tracking", stepsize=0.002), LeastSquares, 2400, cast)
    found = errors(run, minimiser([1] * 8))
    assert CASTS[cast] / 20 < max(found[-400:]) < 2 * CASTS[cast]


@parametrized(COPIES)
def test_with_public_copies_gradient_tracking_reaches_the_minimiser_at_the_rate_of_exact_messages(wire):
    alpha = 0.002
    run = simulation(ring(), create("gradient-tracking", stepsize=alpha), LeastSquares, 2400, wire)
    found = errors(run, minimiser([1] * 8))
    assert 1 - fitted_rate(found, 600, 1200) == pytest.approx(alpha * strong_convexity(8), rel=0.1)
    assert found[-1] < 1e-12


# push-sum


P = directed_ring_with_chords()


@pytest.mark.parametrize("cast", CASTS)
def test_rounding_leaves_push_sum_an_error_of_the_size_of_its_rounding(cast):
    run = simulation(P, create("push-sum"), vectors, 200, cast)
    found = errors(run, estimates(run).mean(dim=0))
    assert CASTS[cast] / 10 < max(found[150:]) < 2 * CASTS[cast]


@parametrized(COPIES)
def test_with_public_copies_push_sum_finds_the_mean(wire):
    run = simulation(P, create("push-sum"), vectors, 300, wire)
    found = errors(run, estimates(run).mean(dim=0))
    second = np.sort(np.abs(np.linalg.eigvals(P)))[-2]
    expected = second if wire == "int8" else 1 - 0.2 * (1 - second)
    assert fitted_rate(found, 50, 100) == pytest.approx(expected, rel=0.02)
    assert found[-1] < 1e-6


# training


@parametrized({"bfloat16": "bfloat16", "float16": "float16", "int8": "int8", "top-k": "top-k"})
def test_digits_are_learnt_as_well_as_with_exact_messages(wire):
    def accuracy(wire):
        w, algorithm = ring(4), create("gradient-tracking", stepsize=0.05)
        run = simulation(w, algorithm, Digits, 300, wire)
        run.run()
        return run.metric_ranges()["accuracy"][0]

    assert accuracy(wire) > accuracy("exact") - 0.01
