"""How a data set is divided between sites, as a picture."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from flaremesh.problems.partitions import Labels, Shares

_LISTED = 20  # classes, for which there is room beside the plot


def plot(labels: Labels, shares: Shares, sites: Sequence[str] = ()) -> Figure:
    """Draw how many samples of each class each site has, as a bar for each site.

    Args:
        labels: of all samples.
        shares: as ``partition`` gives them.
        sites: their names; () numbers them.

    Raises:
        ValueError: there are not as many names as shares.
    """
    names = [*sites] or [f"site {number}" for number in range(len(shares))]
    figure = Figure(figsize=(8.4, 1.4 + 0.3 * len(shares)), layout="constrained")
    axes = figure.add_subplot(xlabel="samples")
    classes, left = np.unique(labels), np.zeros(len(shares))
    for place, label in enumerate(classes):
        counts = np.array([np.count_nonzero(labels[share] == label) for share in shares])
        axes.barh(names, counts, left=left, label=str(label), color=colormaps["turbo"](place / len(classes)))
        left += counts
    axes.invert_yaxis()
    if len(classes) <= _LISTED:
        figure.legend(title="class", loc="outside right upper")
    return figure
