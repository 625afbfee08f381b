"""How a data set is divided between sites, as a picture."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from flaremesh.problems.delivery import delivered
from flaremesh.problems.module import ModuleProblem
from flaremesh.problems.partitions import Labels, Shares
from flaremesh.problems.protocol import ProblemError, SiteContext
from flaremesh.runtime.randomness import built
from flaremesh.topology.schema import Topology

_LISTED = 20  # classes, for which there is room beside the plot


def plot_of(topology: Topology) -> Figure:
    """Draw the training samples that each site's problem has, when it is built here; see `plot`.

    Raises:
        ProblemError: a site's problem cannot be built here, or its samples are of no classes.
        DeliveryError: it cannot travel to the sites.
    """
    found = []
    with delivered(topology.run.problem) as build:
        for index, site in enumerate(topology.sites):
            context = SiteContext.here(site.name, index, len(topology.sites), topology.run.seed)
            problem = built(context, build)
            labels = problem.labels() if isinstance(problem, ModuleProblem) else None
            if labels is None or not len(labels):
                raise ProblemError(
                    f"the problem of {site.name} does not tell the classes of its samples: it must be a "
                    "ModuleProblem, and its targets class labels (m,)"
                )
            found.append(labels.numpy())
    ends = np.cumsum([0, *map(len, found)])
    shares = [np.arange(start, end) for start, end in pairwise(ends)]
    return plot(np.concatenate(found), shares, [site.name for site in topology.sites])


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
