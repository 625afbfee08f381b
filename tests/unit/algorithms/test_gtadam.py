import torch
from reference_cases import LeastSquares, estimates, minimiser, ring, simulation, stacked

from flaremesh.algorithms import create


def errors(iterations, **parameters):
    run = simulation(ring(), create("gtadam", **parameters), LeastSquares, iterations)
    solution = minimiser([1] * 8)
    return [float(torch.linalg.matrix_norm(estimates(run) - solution)) for _ in run.steps()]


def test_all_sites_reach_the_minimiser_and_stay():
    assert max(errors(2000, stepsize=0.01, beta2=0.99)[1500:]) < 1e-12


def test_adams_usual_epsilon_drives_the_iterates_away_again():
    found = errors(1500, stepsize=0.01, beta2=0.99, epsilon=1e-8)
    assert min(found) < 1e-7
    assert max(found[-300:]) > 1e4 * min(found)


def test_one_update_is_the_papers_equation():
    alpha, beta1, beta2, epsilon, cap = 0.1, 0.8, 0.9, 0.05, 40.0
    algorithm = create("gtadam", stepsize=alpha, beta1=beta1, beta2=beta2, epsilon=epsilon, G=cap)
    run = simulation(ring(), algorithm, LeastSquares, iterations=5)
    w = torch.from_numpy(ring())
    x, s, m, v, g = (stacked(run, field) for field in "xsmvg")
    capped = False
    for _ in run.steps():
        m = beta1 * m + (1 - beta1) * s
        uncapped = beta2 * v + (1 - beta2) * s**2
        v = torch.minimum(uncapped, torch.tensor(cap))
        capped |= bool((uncapped > cap).any())
        x = w @ x - alpha * m / torch.sqrt(v + epsilon)
        g, g_before = stacked(run, "g"), g
        s = w @ s + g - g_before
        torch.testing.assert_close(stacked(run, "x"), x)
        torch.testing.assert_close(stacked(run, "s"), s)
    assert capped
