"""NoLoCo, by its published equation, with which the contract compares the code."""

from itertools import islice

import torch
from equations import EQUATIONS
from reference_cases import LeastSquares, gradients_of, ring

from flaremesh.problems.protocol import SiteContext

W = torch.from_numpy(ring())
PROBLEMS = [LeastSquares(SiteContext(f"site{i}", i, 8, 0), scattered=True) for i in range(8)]
X = torch.stack([problem.initial() for problem in PROBLEMS])
INNER = {"stepsize": 0.001, "local_steps": 10}


def after(name, iterations, **options):
    found = EQUATIONS[name].estimates(W, lambda x: gradients_of(PROBLEMS, x), X, **INNER, **options)
    return next(islice(found, iterations - 1, None))


def test_it_ends_where_local_steps_do_that_are_mixed():
    torch.testing.assert_close(after("noloco", 700), after("local-dgd", 700), rtol=0, atol=1e-9)


def test_its_momentum_takes_it_there_sooner():
    end = after("noloco", 700)
    assert (after("noloco", 60) - end).norm() < 0.2 * (after("local-dgd", 60) - end).norm()


def test_the_sites_do_not_agree_unless_where_they_began_is_averaged_too():
    def apart(x):
        return float((x - x.mean(dim=0)).norm())

    class Alone(EQUATIONS["noloco"]):
        @classmethod
        def step(cls, w, gradients, x, m, **options):
            after, moved = super().step(w, gradients, x, m, **options)
            slow = 0.7 * (x - w @ x)
            return after + slow, moved + slow

    found = Alone.estimates(W, lambda x: torch.zeros_like(x), X, **INNER)
    assert apart(next(islice(found, 100, None))) > 0.9 * apart(X)
    assert apart(after("noloco", 100)) < 0.9 * apart(X)
