"""Handwritten digits, 8 by 8 pixels, bundled with scikit-learn; each site sees two or three classes."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from flaremesh.problems.module import Batches, ModuleProblem
from flaremesh.problems.partitions import share_of
from flaremesh.problems.protocol import SiteContext

_TEST_IMAGES = 400


class Digits(ModuleProblem):
    """A small network that learns ten digits, of which its site sees two or three unless told otherwise.

    The test images are the same at all sites and balanced over the ten classes.

    Args:
        site: the site to which the problem belongs.
        batch_size: images in a mini-batch; None uses all images of the site, which leaves no gradient noise.
        hidden: width of the hidden layer.
        partition: which images are the site's, as in flaremesh.problems.partitions; by classes without it.
    """

    def __init__(
        self,
        site: SiteContext,
        batch_size: int | None = None,
        hidden: int = 64,
        partition: Mapping[str, Any] | None = None,
    ):
        train_images, test_images, train_labels, test_labels = _images()
        share = torch.from_numpy(share_of(site, train_labels.numpy(), partition))
        super().__init__(
            site,
            model=lambda: nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10)),
            loss=cross_entropy,
            train=Batches(train_images[share], train_labels[share], batch_size, site.generator()),
            test=Batches(test_images, test_labels),
        )


@cache
def _images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test images (m, 64), then their labels."""
    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(
        (pixels - pixels.mean()) / pixels.std(),
        labels,
        test_size=_TEST_IMAGES,
        stratify=labels,
        random_state=0,
    )
    train_images, test_images, train_labels, test_labels = parts
    return (
        torch.from_numpy(train_images).float(),
        torch.from_numpy(test_images).float(),
        torch.from_numpy(train_labels).long(),
        torch.from_numpy(test_labels).long(),
    )
