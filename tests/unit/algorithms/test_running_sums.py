"""Push-sum with running sums where messages are lost, as those of flaremesh's links never are."""

import numpy as np
import torch
from reference_cases import directed_ring_with_chords

from flaremesh.algorithms import create

P = torch.from_numpy(directed_ring_with_chords())
N = len(P)
VALUES = torch.from_numpy(np.random.default_rng(0).normal(size=(N, 3)))
MEAN = VALUES.mean(dim=0)


def no_gradient(x):
    raise AssertionError("an average needs no gradient")


def iterations(name, count, resent):
    """The states of all sites after each iteration, three in ten messages being lost, and the last arrivals.

    Args:
        resent: a site mixes the last message that arrived in place of a lost one; else nothing.
    """
    algorithm, rng = create(name), np.random.default_rng(1)
    states = [algorithm.init(value, no_gradient) for value in VALUES]
    arrived = [[(torch.zeros(3).double(), torch.zeros(1).double())] * N for _ in range(N)]
    for _ in range(count):
        steps = [algorithm.step(state, no_gradient) for state in states]
        messages, states = [next(step) for step in steps], []
        for i, step in enumerate(steps):
            for j, message in enumerate(messages):
                lost = i != j and rng.random() < 0.3
                if not lost:
                    arrived[i][j] = message
                elif not resent:
                    arrived[i][j] = tuple(map(torch.zeros_like, message))
            mixture = tuple(
                sum(weight * vector for weight, vector in zip(P[i], vectors, strict=True))
                for vectors in zip(*arrived[i], strict=True)
            )
            states.append(finished(step, mixture))
        yield algorithm, states, arrived


def finished(step, mixture):
    """The state after an iteration."""
    try:
        step.send(lambda: mixture)
    except StopIteration as end:
        return end.value
    raise AssertionError("a second message")


def error(algorithm, states):
    return max(float((algorithm.estimate(state) - MEAN).norm()) for state in states)


def test_what_sites_hold_and_what_is_under_way_never_changes_and_they_find_the_mean():
    for found in iterations("robust-push-sum", 400, resent=True):
        algorithm, states, arrived = found
        under_way = sum(P[i, j] * (states[j].w_sent - arrived[i][j][1]) for i in range(N) for j in range(N))
        held = sum(state.w for state in states)
        torch.testing.assert_close(held + under_way, torch.full((1,), float(N)).double(), rtol=0, atol=1e-10)
    assert float(under_way) > 0.1
    assert error(algorithm, states) < 1e-9


def test_plain_push_sum_loses_its_mass_and_finds_another_value():
    *_, (algorithm, states, _) = iterations("push-sum", 100, resent=False)
    assert float(sum(state.w for state in states)) < 1e-3
    assert error(algorithm, states) > 1e-2
