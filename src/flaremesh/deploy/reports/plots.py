"""Figures of what a run measured; each function returns None where the run holds nothing to draw."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import cast

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from flaremesh.deploy.reports.contraction import Distance, Fit
from flaremesh.deploy.reports.style import (
    DISTINCT_SITES,
    LABELLED_SITES,
    PREDICTED,
    Theme,
    site_style,
    subtitle,
    titled_axes,
)
from flaremesh.deploy.runs.results import RecordedRun
from flaremesh.p2p.outcome import Members
from flaremesh.runtime.history import History

_FIRST_ITERATIONS = 10
_MOST_NAMES = 32  # characters, for names beside the name of an axis
_MOST_LOGGED = 6  # names, in one figure
DRAWABLE = 1e100  # greater numbers, of runs that diverge, overflow when axes are laid out

Line = tuple[Sequence[float], Sequence[float]]


def loss(run: RecordedRun, theme: Theme) -> Figure | None:
    """Loss per site: on the evaluation data where there are any, with the mini-batches' behind it."""
    training = _lines(run, lambda history: [(record.iteration, record.loss) for record in history.iterations])
    evaluated = _evaluated(run, "loss")
    lines = evaluated or training
    if not lines:
        return None
    start, end = (np.mean([values[at] for _, values in lines.values()]) for at in (0, -1))
    figure, axes = titled_axes(
        f"Loss: {start:.3g} at the start, {end:.3g} at the end (mean over sites)", y="loss"
    )
    background = training if evaluated and len(run.sites) <= DISTINCT_SITES else {}
    for site, line in background.items():
        axes.plot(*line, **site_style(run, site) | {"alpha": 0.25, "linewidth": 0.7})
    said = "on the evaluation data" if evaluated else "on the mini-batches while training"
    subtitle(axes, said + ("; faint: on the mini-batches while training" if background else ""), theme)
    values = np.concatenate([values for _, values in [*lines.values(), *background.values()]])
    if values.min() > 0 and values.max() > 30 * values.min():
        _use_log_scale(axes, values)
    _draw_sites(axes, run, lines, theme, marker="o" if evaluated else "")
    return figure


def accuracy(run: RecordedRun, theme: Theme) -> Figure | None:
    """Accuracy per site on its evaluation data."""
    lines = _evaluated(run, "accuracy")
    if not lines:
        return None
    worst = min(values[-1] for _, values in lines.values())
    # rounded down: "93.0 % or better" must be true of 93.04 and false of 92.96
    whoever = (
        "every site ends" if len(lines) == len(run.sites) else f"{len(lines)} of {len(run.sites)} sites end"
    )
    figure, axes = titled_axes(
        f"Accuracy: {whoever} at {np.floor(worst * 1000) / 10:.1f} % or better", y="accuracy"
    )
    subtitle(axes, "on the evaluation data", theme)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
    _draw_sites(axes, run, lines, theme, marker="o")
    return figure


def logged(run: RecordedRun, theme: Theme) -> Figure | None:
    """What the sites' own training has logged, by its own steps: one plot for each name, six at most."""
    often = Counter(
        name for history in run.histories.values() for each in history.log for name in each.logged
    )
    found = {name: _logged(run, name) for name, _ in often.most_common(_MOST_LOGGED)}
    drawn = {name: lines for name, lines in sorted(found.items()) if lines}
    if not drawn:
        return None
    figure = Figure(figsize=(8.4, 1 + 2 * len(drawn)), layout="constrained")
    plots = figure.subplots(len(drawn), squeeze=False)[:, 0]
    for axes, (name, lines) in zip(plots, drawn.items(), strict=True):
        axes.set_title(name if len(name) <= _MOST_NAMES else f"{name[:_MOST_NAMES]}…")
        for site, line in lines.items():
            axes.plot(*line, **site_style(run, site), label=site)
    plots[-1].set_xlabel("step")
    if len(run.sites) <= DISTINCT_SITES:
        handles, labels = plots[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", handlelength=2.8)
    return figure


def consensus(run: RecordedRun, distance: Distance, fit: Fit | None, theme: Theme) -> Figure | None:
    """The consensus distance, what mixing alone predicts, and the line fitted to its descent."""
    drawable = (distance.values < DRAWABLE) & (distance.values > 1 / DRAWABLE)
    if not drawable.any():
        return None
    iterations, values = distance.iterations[drawable], distance.values[drawable]
    # sites that start at one point have nothing to contract before their gradients drive them apart
    start = int(np.argmax(values[:_FIRST_ITERATIONS]))
    iterations, values = iterations[start:], values[start:]
    found = (
        f"contracts by {fit.contraction:.4g} per iteration"
        if fit
        else f"goes from {values[0]:.3g} to {distance.values[-1]:.3g}"
    )
    whose = "the sites that are left" if run.result.missing else "all sites"
    figure, axes = titled_axes(f"Consensus distance {found}", y=f"‖X − WX‖, {whose}")
    _use_log_scale(axes, values)
    marker = "o" if len(values) <= 20 else ""
    axes.plot(iterations, values, color=theme.accent, linewidth=2.6, marker=marker, label="measured")
    predicted = run.result.predicted_contraction
    if predicted is not None and 0 <= predicted <= 1:
        line = values[0] * predicted ** (iterations - iterations[0]).astype(float)
        # the prediction falls on below round-off, and would flatten everything else
        near = line >= values.min() / 3
        label = f"predicted for mixing alone: {predicted:.4g} per iteration"
        axes.plot(iterations[near], line[near], color=PREDICTED, linestyle="--", label=label)
    if fit:
        ends = np.array([fit.first, fit.last])
        label = f"fitted, iterations {fit.first} to {fit.last}: {fit.contraction:.4g} per iteration"
        axes.plot(
            ends,
            fit.at_first * fit.contraction ** (ends - fit.first),
            color=theme.ink,
            linewidth=1,
            marker="|",
            markersize=10,
            label=label,
        )
    _shade_missing(axes, run, theme)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=3, borderaxespad=0.2, handlelength=2.6)
    return figure


def time(run: RecordedRun, theme: Theme) -> Figure | None:
    """Mean time of an iteration per site: computing gradients, waiting for neighbours, and the rest."""
    parts = {
        site: 1e3
        * np.mean(
            [
                (
                    r.gradient_seconds,
                    max(0.0, r.seconds - r.gradient_seconds - r.wait_seconds),
                    r.wait_seconds,
                )
                for r in history.iterations
            ],
            axis=0,
        )
        for site, history in run.histories.items()
        if history.iterations
    }
    if not parts:
        return None
    sites = [site for site in run.sites if site in parts]
    milliseconds = np.array([parts[site] for site in sites])
    if not milliseconds.any():
        return None
    mean, waiting = milliseconds.sum(axis=1).mean(), milliseconds[:, 2].sum() / milliseconds.sum()
    row = 0.3 if len(sites) <= DISTINCT_SITES else 0.16
    figure, axes = titled_axes(
        f"An iteration takes {mean:.3g} ms, {100 * waiting:.0f} % of it waiting for neighbours",
        x="mean time per iteration, ms",
        height=1.6 + row * len(sites),
    )
    left = np.zeros(len(sites))
    colours = {"gradient": theme.accent, "mixing and sending": theme.soft, "waiting": theme.faint}
    for (label, colour), part in zip(colours.items(), milliseconds.T, strict=True):
        axes.barh(sites, part, left=left, height=0.7, color=colour, label=label)
        left += part
    axes.set_ylim(len(sites) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, labelcolor=theme.ink, labelsize=8.5 if row == 0.3 else 6.5)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=3, borderaxespad=0.2, handlelength=1)
    return figure


def _lines(run: RecordedRun, points: Callable[[History], list[tuple[int, float | None]]]) -> dict[str, Line]:
    """What can be drawn of every site: a diverged run's line ends where its numbers do."""
    finite = {
        site: [
            (iteration, value)
            for iteration, value in points(history)
            if value is not None and abs(value) < DRAWABLE
        ]
        for site, history in run.histories.items()
    }
    return {site: ([x for x, _ in some], [y for _, y in some]) for site, some in finite.items() if some}


def _evaluated(run: RecordedRun, metric: str) -> dict[str, Line]:
    return _lines(run, lambda history: [(e.iteration, e.metrics.get(metric)) for e in history.evaluations])


def _logged(run: RecordedRun, name: str) -> dict[str, Line]:
    return _lines(run, lambda history: [(each.step, each.logged.get(name)) for each in history.log])


def _draw_sites(axes: Axes, run: RecordedRun, lines: Mapping[str, Line], theme: Theme, marker: str) -> None:
    """Few sites are named at their line's end, more in a legend, of many the two extremes and the median."""
    for site in run.sites:
        if site in lines:
            axes.plot(
                *lines[site],
                **site_style(run, site),
                label=site,
                marker=marker if len(run.sites) <= DISTINCT_SITES else "",
                markersize=3,
            )
    _shade_missing(axes, run, theme)
    ends = {site: (values[-1], site_style(run, site)["color"]) for site, (_, values) in lines.items()}
    if len(run.sites) <= LABELLED_SITES:
        _name_ends(axes, ends)
    elif len(run.sites) <= DISTINCT_SITES:
        cast(Figure, axes.figure).legend(loc="outside right upper", handlelength=2.8)
    else:
        grid = sorted({iteration for iterations, _ in lines.values() for iteration in iterations})
        median = np.median([np.interp(grid, *line) for line in lines.values()], axis=0)
        axes.plot(grid, median, color=theme.ink, linewidth=2.6)
        by_end = sorted(ends, key=lambda site: ends[site][0])
        _name_ends(
            axes, {site: ends[site] for site in (by_end[0], by_end[-1])} | {"median": (median[-1], theme.ink)}
        )


def _shade_missing(axes: Axes, run: RecordedRun, theme: Theme) -> None:
    """A band for each range of iterations that were done without the same sites; call it after all lines."""
    left, right = axes.get_xlim()
    bands: dict[str, Artist] = {}
    for members, following in pairwise((*run.result.members, Members(int(right) + 1, ()))):
        gone = [site for site in run.result.members[0].sites if site not in members.sites]
        start, end = max(members.since, left), min(following.since, right)
        if gone and start < end:
            who = ", ".join(gone)
            if len(gone) > 1 and len(who) > _MOST_NAMES:
                who = f"{len(gone)} sites"
            shade = 1 - 0.5 ** (1 + len(bands))
            bands[f"without {who}, from iteration {members.since}"] = axes.axvspan(
                start, end, color=theme.faint, alpha=shade, linewidth=0, zorder=0
            )
    axes.set_xlim(left, right)
    if bands:
        # beside the name of the axis, where no line can be
        place = (1.01, -0.07)
        legend = Legend(
            axes, bands.values(), bands, loc="upper right", bbox_to_anchor=place, borderaxespad=0.2
        )
        axes.add_artist(legend)
        legend.set_clip_on(False)  # what is clipped gets no room below the axes


def _name_ends(axes: Axes, ends: Mapping[str, tuple[float, str]]) -> None:
    """Names right of the axes, at the height where the lines end but never on top of each other."""
    gap = 0.055
    to_axes = axes.transData + axes.transAxes.inverted()
    axes.autoscale_view()
    wanted = {name: float(to_axes.transform((0, value))[1]) for name, (value, _) in ends.items()}
    names = sorted(wanted, key=lambda name: wanted[name])
    heights: list[float] = []
    for name in names:
        heights.append(max(wanted[name], heights[-1] + gap) if heights else wanted[name])
    drift = max(float(np.mean(heights)) - float(np.mean(list(wanted.values()))), heights[-1] - 1)
    for name, height in zip(names, heights, strict=True):
        axes.text(
            1.01,
            height - drift,
            name,
            transform=axes.transAxes,
            color=ends[name][1],
            fontsize=9,
            va="center",
            weight="bold",
        )


def _use_log_scale(axes: Axes, values: NDArray[np.float64]) -> None:
    """Show positive values on a logarithmic axis with readable numbers."""
    axes.set_yscale("log")
    if values.max() < 1000 * values.min():
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
