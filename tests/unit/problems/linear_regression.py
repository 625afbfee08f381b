"""What a user writes: a problem of one's own, from a model, a loss and the site's data."""

import torch
from torch import nn

from flaremesh.problems.module import Batches, ModuleProblem
from flaremesh.problems.protocol import SiteContext


class LinearRegression(ModuleProblem):
    def __init__(self, site: SiteContext, samples: int = 20):
        inputs = torch.randn(samples, 3, generator=site.generator())
        targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5]]) + 1
        super().__init__(
            site,
            model=lambda: nn.Linear(3, 1),
            loss=nn.MSELoss(),
            train=Batches(inputs, targets),
            test=Batches(inputs, targets),
        )


class Broken:
    def __init__(self, site):
        raise RuntimeError("the disk is on fire")


class Half(LinearRegression):
    restore = None
