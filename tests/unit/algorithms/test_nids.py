"""NIDS: what it is beside exact diffusion, and how far its steps may go."""

from itertools import islice

import numpy as np
import pytest
import torch
from equations import EQUATIONS
from reference_cases import LeastSquares, estimates, gradients_of, minimiser, ring, simulation

from flaremesh.algorithms import create
from flaremesh.problems.protocol import SiteContext

PROBLEMS = [LeastSquares(SiteContext(f"site{i}", index=i, sites=8, seed=0)) for i in range(8)]
ZERO = torch.zeros(8, 5, dtype=torch.float64)


def gradients(x):
    return gradients_of(PROBLEMS, x)


def smoothness():
    """L, of the least smooth objective."""
    units = torch.eye(5, dtype=torch.float64)
    hessians = torch.stack([gradients(unit.expand(8, 5)) - gradients(ZERO) for unit in units], dim=2)
    return float(torch.linalg.eigvalsh(hessians).max())


def error(name, w, stepsize):
    """After 600 iterations of the published equation, with which the contract compares the code."""
    found = EQUATIONS[name].estimates(torch.from_numpy(w), gradients, ZERO, stepsize=stepsize)
    return float((next(islice(found, 600, None)) - minimiser([1] * 8)).norm())


def test_it_is_exact_diffusion_from_a_gradient_step():
    class Descended(LeastSquares):
        def initial(self):
            x = super().initial()
            return x - 0.01 * self.loss_and_gradient(x)[1]

    nids = simulation(ring(), create("nids", stepsize=0.01), LeastSquares, iterations=20)
    diffusion = simulation(ring(), create("exact-diffusion", stepsize=0.01), Descended, iterations=20)
    torch.testing.assert_close(estimates(nids), estimates(diffusion), rtol=0, atol=0)
    for _, _ in zip(nids.steps(), diffusion.steps(), strict=True):
        torch.testing.assert_close(estimates(nids), estimates(diffusion), rtol=0, atol=0)


@pytest.mark.parametrize("idle", [0, 0.5], ids=["ring", "lazy ring"])
def test_its_steps_are_as_long_as_those_of_one_site_on_any_network(idle):
    w = idle * np.eye(8) + (1 - idle) * ring()
    assert error("nids", w, 1.9 / smoothness()) < 1e-6
    assert not error("nids", w, 4 / smoothness()) < 1e3


def test_gradient_tracking_and_extra_do_not_bear_such_steps():
    assert not error("gradient-tracking", ring(), 1.9 / smoothness()) < 1e3
    assert not error("extra", ring(), 1.9 / smoothness()) < 1e3
