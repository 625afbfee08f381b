"""What train.py trains, as a problem that gives gradients."""

import torch
from net import Net
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from flaremesh.problems.module import Batches, ModuleProblem
from flaremesh.problems.protocol import SiteContext


class Gradients(ModuleProblem):
    """Whole batches, and no optimiser."""

    def __init__(self, site: SiteContext) -> None:
        data = load_digits()
        chosen = (data.target < 5) == (sum(map(ord, site.name)) % 2 == 0)
        inputs = torch.tensor(data.data[chosen] / 16, dtype=torch.float32)
        labels = torch.tensor(data.target[chosen])
        super().__init__(site, Net, cross_entropy, Batches(inputs, labels))
