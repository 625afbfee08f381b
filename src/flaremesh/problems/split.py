"""How labelled images are divided between sites: heavily unbalanced."""

import numpy as np
from numpy.typing import NDArray


def classes_of(index: int, sites: int, classes: int = 10) -> list[int]:
    """The consecutive classes that site ``index`` of ``sites`` sees.

    With ten classes and four or more sites that is two or three each, and together all ten; fewer sites must
    see more. Beyond five sites, classes are shared.
    """
    first = index * classes // sites
    last = max((index + 1) * classes // sites, first + 2)
    return [label % classes for label in range(first, last)]


def share_of(labels: NDArray[np.int64], index: int, sites: int) -> NDArray[np.int64]:
    """Indices of the samples that belong to site ``index``; every sample belongs to exactly one site.

    Args:
        labels: (m,), 0 to 9.
        index: position of the site.
        sites: number of sites.

    Raises:
        ValueError: too few samples for so many sites.
    """
    shares = []
    for label in classes_of(index, sites):
        owners = [site for site in range(sites) if label in classes_of(site, sites)]
        shares.append(np.flatnonzero(labels == label)[owners.index(index) :: len(owners)])
    share = np.concatenate(shares)
    if not len(share):
        raise ValueError(f"{len(labels)} images are too few for {sites} sites")
    return share
