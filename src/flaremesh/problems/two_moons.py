"""Two interleaving half circles: a toy classification problem in the plane."""

import torch
from sklearn.datasets import make_moons
from torch import nn
from torch.nn.functional import cross_entropy

from flaremesh.problems.module import Batch, Batches, ModuleProblem
from flaremesh.problems.protocol import SiteContext

_TEST_SAMPLES = 1000


class TwoMoons(ModuleProblem):
    """A small network that tells the moons apart; every site draws samples of its own.

    Args:
        site: the site to which the problem belongs.
        samples: number of training samples of the site.
        noise: standard deviation of the noise added to the circles.
        batch_size: samples in a mini-batch; None uses all.
        hidden: width of the hidden layer.
    """

    def __init__(
        self,
        site: SiteContext,
        samples: int = 128,
        noise: float = 0.1,
        batch_size: int | None = None,
        hidden: int = 32,
    ):
        own = site.generator()
        # the test samples come from the run's seed, so that all sites are judged by the same ones
        test = _moons(_TEST_SAMPLES, noise, torch.Generator().manual_seed(site.seed))
        super().__init__(
            site,
            model=lambda: nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 2)),
            loss=cross_entropy,
            train=Batches(*_moons(samples, noise, own), batch_size, own),
            test=Batches(*test),
        )


def _moons(samples: int, noise: float, generator: torch.Generator) -> Batch:
    random_state = int(torch.randint(2**31, (), generator=generator))
    points, labels = make_moons(samples, noise=noise, random_state=random_state)
    return torch.from_numpy(points).float(), torch.from_numpy(labels).long()
