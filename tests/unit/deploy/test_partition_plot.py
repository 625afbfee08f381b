"""How samples are divided, as a picture."""

import numpy as np

from flaremesh.deploy.reports.partition_plot import plot
from flaremesh.problems.partitions import partition


def test_the_plot_has_a_bar_for_each_site_in_parts_as_long_as_it_has_samples_of_each_class():
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    shares = partition(labels, 3, "dirichlet", alpha=0.5, seed=1)
    figure = plot(labels, shares, ["aachen", "bonn", "ulm"])
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["aachen", "bonn", "ulm"]
    for label, bars in enumerate(axes.containers):
        expected = [np.count_nonzero(labels[share] == label) for share in shares]
        assert [bar.get_width() for bar in bars] == expected
    ends = [bar.get_x() + bar.get_width() for bar in axes.containers[-1]]
    assert ends == list(map(len, shares))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0", "1", "2"]
    assert not plot(np.arange(60), shares).legends
