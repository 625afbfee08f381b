"""An image network as people train one: convolutions, BatchNorm, a frozen layer, AdamW and autocast."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR

from flaremesh.algorithms import create
from flaremesh.problems.digits import _images
from flaremesh.problems.module import Batches, ModuleProblem
from flaremesh.problems.partitions import share_of
from flaremesh.problems.protocol import SiteContext
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.simulate import Simulation
from flaremesh.topology.neighborhood import neighborhoods

SITES = 8
ITERATIONS, LOCAL_STEPS = 40, 50


def network():
    """Its first layer is not trained."""
    layers = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    layers[1].requires_grad_(False)
    return layers


class Images(ModuleProblem):
    """scikit-learn's digits; a single site has all of them."""

    def __init__(self, site: SiteContext):
        train, test, train_labels, test_labels = _images()
        share = torch.arange(len(train_labels))
        if site.sites > 1:
            how = {"kind": "dirichlet", "alpha": 0.3}
            share = torch.from_numpy(share_of(site, train_labels.numpy(), how))
        super().__init__(
            site,
            network,
            cross_entropy,
            train=Batches(train[share], train_labels[share], 32, site.generator()),
            test=Batches(test, test_labels),
            optimizer=partial(torch.optim.AdamW, weight_decay=0.01),
            schedule=partial(CosineAnnealingLR, T_max=ITERATIONS * LOCAL_STEPS),
            autocast=torch.bfloat16,
        )


def exponential(sites):
    """The graph in which each averages with those 1, 2, 4, … places away, in both directions."""
    steps = {0} | {sign * 2**power for power in range(sites.bit_length() - 1) for sign in (1, -1)}
    w = sum(np.roll(np.eye(sites), step, axis=0) for step in {step % sites for step in steps})
    return w / w.sum(axis=1, keepdims=True)


def accuracies(sites, algorithm, **options):
    names = [f"site{number}" for number in range(sites)]
    hoods = neighborhoods(names, exponential(sites))
    algorithm = create(algorithm, stepsize=0.003, local_steps=LOCAL_STEPS, **options)
    run = Simulation({site: [hoods[site]] for site in names}, algorithm, Images, RunOptions(ITERATIONS))
    run.run()
    return [history.last_metrics["accuracy"] for history in run.histories.values()]


@pytest.mark.full
@pytest.mark.timeout(600)
def test_unlike_sites_come_within_a_point_of_one_that_has_all_data():
    (whole,) = accuracies(1, "local-dgd")
    assert min(accuracies(SITES, "k-gt", outer=1.0)) >= whole - 0.01
