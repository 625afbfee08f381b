"""MNIST from files that are already there, split as unbalanced as the digits."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from flaremesh.problems.module import Batches, ModuleProblem
from flaremesh.problems.partitions import share_of
from flaremesh.problems.protocol import SiteContext


class Mnist(ModuleProblem):
    """A small convolutional network; each site sees two or three of the ten digits, unless told otherwise.

    Args:
        site: the site to which the problem belongs.
        folder: holds ``MNIST/raw`` with the four files; default the site's data folder.
        batch_size: images in a mini-batch.
        partition: which images are the site's, as in flaremesh.problems.partitions; by classes without it.

    Raises:
        ValueError: no folder, or it lacks the files.
        ModuleNotFoundError: torchvision is not installed.
    """

    def __init__(
        self,
        site: SiteContext,
        folder: str | None = None,
        batch_size: int = 64,
        partition: Mapping[str, Any] | None = None,
    ):
        place = folder or site.data_dir
        if place is None:
            raise ValueError(
                "give the folder of the MNIST files: the argument folder, or FLAREMESH_DATA_DIR in the "
                "site's environment"
            )
        train_images, train_labels = _images(Path(place), train=True)
        test_images, test_labels = _images(Path(place), train=False)
        share = torch.from_numpy(share_of(site, train_labels.numpy(), partition))
        super().__init__(
            site,
            model=_network,
            loss=cross_entropy,
            train=Batches(train_images[share], train_labels[share], batch_size, site.generator()),
            test=Batches(test_images, test_labels, size=1000),
        )


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


@cache
def _images(folder: Path, train: bool) -> tuple[Tensor, Tensor]:
    """Images (m, 1, 28, 28), standardised, and labels (m,)."""
    try:
        from torchvision.datasets import MNIST  # the extra `vision` is only needed here
    except ModuleNotFoundError:
        raise ModuleNotFoundError("torchvision is not installed: pip install 'flaremesh[vision]'") from None
    try:
        data = MNIST(str(folder), train=train, download=False)
    except RuntimeError:
        raise ValueError(
            f"{folder} does not hold the MNIST files: put train-images-idx3-ubyte, train-labels-idx1-ubyte, "
            f"t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte into {folder / 'MNIST' / 'raw'}"
        ) from None
    return (data.data.float().unsqueeze(1) / 255 - 0.1307) / 0.3081, data.targets.long()
