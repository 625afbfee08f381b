"""Noise that is added to gradients."""

import pytest
import torch

from flaremesh.privacy.accounting import PrivacyError, Queries, budget_of, pairs_of
from flaremesh.privacy.noise import NoisedGradient, Secrets, clipped
from flaremesh.topology.schema import Privacy

SITES = [f"site-{number}" for number in range(8)]
EDGES = [(SITES[i], SITES[(i + 1) % 8]) for i in range(8)]
SIZE = 1000


def budget(iterations=20, **said):
    privacy = Privacy.model_validate({"epsilon": 8, "delta": 1e-5, "clip": 1.0} | said)
    return budget_of(privacy, Queries(0, 1), iterations, pairs_of(EDGES, SITES))


def nothing(x):
    return torch.zeros_like(x)


def noised(site, spends, own=None):
    shared = {
        peer: "-".join(edge).encode() for edge in EDGES if site in edge for peer in edge if peer != site
    }
    return NoisedGradient(site, nothing, spends, Secrets(own or site.encode(), shared))


def test_shared_noise_sums_to_zero_over_all_sites_and_hides_each_of_them():
    spends = budget(noise="correlated", correlation=1e4)
    gradients = [noised(site, spends) for site in SITES]
    alone = [NoisedGradient(site, nothing, spends, Secrets(site.encode())) for site in SITES]
    for _ in range(3):
        x = torch.zeros(SIZE, dtype=torch.float64)
        shared = torch.stack([one(x) - other(x) for one, other in zip(gradients, alone, strict=True)])
        assert shared.std(dim=1).min() > spends.shared_noise  # of two pairs each
        assert (shared.sum(dim=0) / spends.shared_noise).abs().max() < 1e-12


def test_a_sites_own_noise_is_normal_of_the_budgets_deviation_and_other_at_every_query():
    spends = budget()
    gradient = noised(SITES[0], spends)
    first, second = (gradient(torch.zeros(100_000, dtype=torch.float64)) for _ in range(2))
    assert float(first.std()) == pytest.approx(spends.noise, rel=0.02)
    assert abs(float(first.dot(second) / first.norm() / second.norm())) < 0.02


def test_a_secret_makes_the_same_noise_again_and_no_secret_is_used_twice():
    x, spends = torch.zeros(SIZE), budget()
    assert torch.equal(noised(SITES[0], spends)(x), noised(SITES[0], spends)(x))
    fresh = [NoisedGradient(SITES[0], nothing, spends, Secrets()) for _ in range(2)]
    assert not torch.equal(fresh[0](x), fresh[1](x))


def test_what_is_spent_is_opacus_word_and_the_plans_figure():
    spends = budget(iterations=20)
    gradient = noised(SITES[0], spends)
    assert gradient.epsilon == 0
    for queries in range(1, 21):
        gradient(torch.zeros(1))
        assert gradient.epsilon == pytest.approx(spends.spent(queries), rel=1e-9)
    assert gradient.epsilon == pytest.approx(8, rel=1e-9)
    with pytest.raises(
        PrivacyError, match=r"site-0 has spent its privacy budget, ε 8 \(δ 1e-05\): 20 gradients"
    ):
        gradient(torch.zeros(1))


@pytest.mark.parametrize(("length", "expected"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (1e30, 1.0)])
def test_a_gradient_is_clipped_to_the_norm(length, expected):
    gradient = torch.zeros(4, dtype=torch.float64)
    gradient[2] = length
    assert float(clipped(gradient, 1.0).norm()) == pytest.approx(expected)
