"""The figures of a run; each function returns None where the run holds nothing to draw."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import rgb_to_hsv, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from flaremesh.deploy.reports.contraction import Distance, Fit
from flaremesh.deploy.runs.results import Run
from flaremesh.p2p.outcome import Graph
from flaremesh.runtime.history import History

# Okabe and Ito's colours; their yellow, dark blue and black would vanish on white or on black
_COLOURS = ("#2080C0", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#9A8700", "#808080")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)))
_LABELLED_SITES = len(_COLOURS)
_DISTINCT_SITES = len(_COLOURS) * len(_DASHES)
_LABELLED_EDGES = 24
_WEIGHTED_SITES = 16
_FIRST_ITERATIONS = 10

Line = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Theme:
    """Colours of everything that is not data."""

    ink: str
    muted: str
    grid: str
    surface: str
    accent: str
    soft: str
    faint: str

    def applied(self) -> AbstractContextManager[None]:
        """Matplotlib's settings for figures that are drawn and saved inside."""
        return rc_context(
            {
                "axes.axisbelow": True,
                "axes.edgecolor": self.grid,
                "axes.facecolor": self.surface,
                "axes.grid": True,
                "axes.labelcolor": self.muted,
                "axes.labelsize": 9,
                "axes.spines.right": False,
                "axes.spines.top": False,
                "axes.titlecolor": self.ink,
                "axes.titlelocation": "left",
                "axes.titlepad": 26,
                "axes.titlesize": 11.5,
                "axes.titleweight": "bold",
                "figure.constrained_layout.use": True,
                "figure.facecolor": self.surface,
                "grid.color": self.grid,
                "grid.linewidth": 0.6,
                "legend.fontsize": 8,
                "legend.frameon": False,
                "lines.linewidth": 1.6,
                "savefig.dpi": 180,
                "savefig.facecolor": self.surface,
                "text.color": self.ink,
                "xtick.color": self.grid,
                "xtick.labelcolor": self.muted,
                "xtick.labelsize": 8.5,
                "ytick.color": self.grid,
                "ytick.labelcolor": self.muted,
                "ytick.labelsize": 8.5,
                "ytick.minor.size": 0,
            }
        )


LIGHT = Theme(
    ink="#1f2328",
    muted="#59636e",
    grid="#d8dee4",
    surface="#ffffff",
    accent="#4f46a5",
    soft="#a7a2d2",
    faint="#d3d6da",
)
DARK = Theme(
    ink="#e6edf3",
    muted="#9da7b1",
    grid="#353c45",
    surface="#151b23",
    accent="#a29bf0",
    soft="#65609c",
    faint="#3d444d",
)


def line_style(index: int) -> dict[str, Any]:
    """The look of the line with this number; 24 look different, then they repeat."""
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "linestyle": _DASHES[index // len(_COLOURS) % len(_DASHES)],
    }


def use_log_scale(axes: Axes, values: NDArray[np.float64]) -> None:
    """Show positive values on a logarithmic axis with readable numbers."""
    axes.set_yscale("log")
    if values.max() < 1000 * values.min():
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def loss(run: Run, theme: Theme) -> Figure | None:
    """Loss per site: on the evaluation data where there are any, with the mini-batches' behind it."""
    training = _lines(run, lambda history: [(record.iteration, record.loss) for record in history.iterations])
    evaluated = _evaluated(run, "loss")
    lines = evaluated or training
    if not lines:
        return None
    start, end = (np.mean([values[at] for _, values in lines.values()]) for at in (0, -1))
    figure, axes = _axes(f"Loss: {start:.3g} at the start, {end:.3g} at the end (mean over sites)", y="loss")
    background = training if evaluated and len(run.sites) <= _DISTINCT_SITES else {}
    for site, line in background.items():
        axes.plot(*line, **_style(run, site) | {"alpha": 0.25, "linewidth": 0.7})
    said = "on the evaluation data" if evaluated else "on the mini-batches while training"
    _say(axes, said + ("; faint: on the mini-batches while training" if background else ""), theme)
    values = np.concatenate([values for _, values in [*lines.values(), *background.values()]])
    if values.min() > 0 and values.max() > 30 * values.min():
        use_log_scale(axes, values)
    _draw_sites(axes, run, lines, theme, marker="o" if evaluated else "")
    return figure


def accuracy(run: Run, theme: Theme) -> Figure | None:
    """Accuracy per site on its evaluation data."""
    lines = _evaluated(run, "accuracy")
    if not lines:
        return None
    worst = min(values[-1] for _, values in lines.values())
    # rounded down: "93.0 % or better" must be true of 93.04 and false of 92.96
    whoever = (
        "every site ends" if len(lines) == len(run.sites) else f"{len(lines)} of {len(run.sites)} sites end"
    )
    figure, axes = _axes(
        f"Accuracy: {whoever} at {np.floor(worst * 1000) / 10:.1f} % or better", y="accuracy"
    )
    _say(axes, "on the evaluation data", theme)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
    _draw_sites(axes, run, lines, theme, marker="o")
    return figure


def consensus(distance: Distance, predicted: float | None, fit: Fit | None, theme: Theme) -> Figure | None:
    """The consensus distance, what mixing alone predicts, and the line fitted to its descent."""
    drawable = np.isfinite(distance.values) & (distance.values > 0)
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
    figure, axes = _axes(f"Consensus distance {found}", y="‖X − WX‖, all sites")
    use_log_scale(axes, values)
    marker = "o" if len(values) <= 20 else ""
    axes.plot(iterations, values, color=theme.accent, linewidth=2.6, marker=marker, label="measured")
    if predicted is not None:
        line = values[0] * predicted ** (iterations - iterations[0]).astype(float)
        # beyond round-off the prediction goes on for ever and would flatten everything else
        near = line >= values.min() / 3
        label = f"predicted for mixing alone: {predicted:.4g} per iteration"
        axes.plot(iterations[near], line[near], color=_COLOURS[4], linestyle="--", label=label)
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
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=3, borderaxespad=0.2, handlelength=2.6)
    return figure


def graph(run: Run, theme: Theme) -> Figure | None:
    """The graph with its weights, averaged over the phases of a graph that changes."""
    if run.result.graph is None:
        return None
    names, weights = run.result.graph.sites, _mean_matrix(run.result.graph)
    directed = not np.allclose(weights, weights.T)
    # (j, i) carries w_ij: values travel from j to i
    edges = {
        (int(j), int(i)): float(weights[i, j])
        for i, j in np.argwhere(weights)
        if (i != j if directed else i > j)
    }

    side = float(np.clip(4.4 + 0.07 * len(names), 5, 9))
    figure = Figure(figsize=(8.4, side))
    axes = figure.add_subplot(
        title=f"{len(names)} sites on {len(edges)} {'directed ' if directed else ''}edges"
    )
    axes.set_axis_off()
    axes.set_aspect("equal", adjustable="datalim")
    _say(axes, _about_weights(run.result.graph, edges, directed), theme)

    # clockwise from the top: on a circle every name stands free, whatever the graph
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / len(names)
    positions = np.column_stack([np.cos(angles), np.sin(angles)])
    points = float(np.clip(100 / np.sqrt(len(names)), 10, 30))
    colours = [_style(run, name)["color"] for name in names]
    axes.scatter(
        positions[:, 0],
        positions[:, 1],
        s=points**2,
        c=colours,
        edgecolors=theme.surface,
        linewidths=1.5,
        zorder=3,
    )
    _draw_edges(axes, positions, edges, directed, points / 2, theme)
    if len(names) <= _WEIGHTED_SITES:
        for index, (x, y) in enumerate(positions):
            colour = "black" if rgb_to_hsv(to_rgb(colours[index]))[2] > 0.7 else "white"
            axes.text(
                x, y, f"{weights[index, index]:.3g}", color=colour, fontsize=7.5, ha="center", va="center"
            )
    _name_nodes(axes, names, angles, points / 2 + 4)
    axes.margins(0.2)
    return figure


def time(run: Run, theme: Theme) -> Figure | None:
    """Mean time of an iteration per site: computing gradients, waiting for neighbours, and the rest."""
    parts = {
        site: 1e3
        * np.mean(
            [
                (r.gradient_seconds, r.seconds - r.gradient_seconds - r.wait_seconds, r.wait_seconds)
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
    mean, waiting = milliseconds.sum(axis=1).mean(), milliseconds[:, 2].sum() / milliseconds.sum()
    row = 0.3 if len(sites) <= _DISTINCT_SITES else 0.16
    figure, axes = _axes(
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


def _axes(title: str, x: str = "iteration", y: str = "", height: float = 4.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.4, height))
    axes = figure.add_subplot(title=title, xlabel=x, ylabel=y)
    if x == "iteration":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def _say(axes: Axes, what: str, theme: Theme) -> None:
    axes.annotate(
        what,
        (0, 1),
        xytext=(0, 9),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=9,
        color=theme.muted,
    )


def _lines(run: Run, points: Callable[[History], list[tuple[int, float | None]]]) -> dict[str, Line]:
    """What can be drawn of every site: a diverged run's line ends where its numbers do."""
    finite = {
        site: [
            (iteration, value)
            for iteration, value in points(history)
            if value is not None and np.isfinite(value)
        ]
        for site, history in run.histories.items()
    }
    return {site: ([x for x, _ in some], [y for _, y in some]) for site, some in finite.items() if some}


def _evaluated(run: Run, metric: str) -> dict[str, Line]:
    return _lines(run, lambda history: [(e.iteration, e.metrics.get(metric)) for e in history.evaluations])


def _style(run: Run, site: str) -> dict[str, Any]:
    """A site looks the same in every figure; beyond 24 sites only its place in the order shows."""
    index, count = run.sites.index(site), len(run.sites)
    if count > _DISTINCT_SITES:
        return {
            "color": to_hex(colormaps["viridis"](0.1 + 0.75 * index / count)),
            "linewidth": 0.8,
            "alpha": 0.7,
        }
    return line_style(index)


def _draw_sites(axes: Axes, run: Run, lines: Mapping[str, Line], theme: Theme, marker: str) -> None:
    """Few sites are named at their line's end, more in a legend, of many the two extremes and the median."""
    for site in run.sites:
        if site in lines:
            axes.plot(
                *lines[site],
                **_style(run, site),
                label=site,
                marker=marker if len(run.sites) <= _DISTINCT_SITES else "",
                markersize=3,
            )
    ends = {site: (values[-1], _style(run, site)["color"]) for site, (_, values) in lines.items()}
    if len(run.sites) <= _LABELLED_SITES:
        _name_ends(axes, ends)
    elif len(run.sites) <= _DISTINCT_SITES:
        cast(Figure, axes.figure).legend(loc="outside right upper", handlelength=2.8)
    else:
        grid = sorted({iteration for iterations, _ in lines.values() for iteration in iterations})
        median = np.median([np.interp(grid, *line) for line in lines.values()], axis=0)
        axes.plot(grid, median, color=theme.ink, linewidth=2.6)
        by_end = sorted(ends, key=lambda site: ends[site][0])
        _name_ends(
            axes, {site: ends[site] for site in (by_end[0], by_end[-1])} | {"median": (median[-1], theme.ink)}
        )


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


def _mean_matrix(graph: Graph) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = np.array(graph.matrices, dtype=np.float64).mean(axis=0)
    return mean


def _about_weights(graph: Graph, edges: Mapping[tuple[int, int], float], directed: bool) -> str:
    weights = list(edges.values())
    if not weights:
        return ""
    if np.ptp(weights) < 1e-9:
        said = f"every edge weighs {weights[0]:.3g}"
    elif len(edges) <= _LABELLED_EDGES:
        said = "on an edge: its weight"
    else:
        said = f"edges weigh {min(weights):.2g} to {max(weights):.2g}: the wider, the more"
    if len(graph.sites) <= _WEIGHTED_SITES:
        said += "; in a site: the weight of its own value"
    if directed:
        said += "; an arrow shows which way values travel"
    return said + (f"; mean of {len(graph.matrices)} phases" if len(graph.matrices) > 1 else "")


def _name_nodes(axes: Axes, names: Sequence[str], angles: NDArray[np.float64], points: float) -> None:
    """Names outside the circle, upright where few and radial where many."""
    for name, angle in zip(names, angles, strict=True):
        x, y = np.cos(angle), np.sin(angle)
        look: dict[str, Any]
        if len(names) <= _WEIGHTED_SITES:
            look = {
                "ha": "center" if abs(x) < 0.2 else "left" if x > 0 else "right",
                "va": "center" if abs(y) < 0.9 else "bottom" if y > 0 else "top",
                "fontsize": 9,
            }
        else:
            right = x > -1e-9
            look = {
                "ha": "left" if right else "right",
                "va": "center",
                "rotation": np.degrees(angle) if right else np.degrees(angle) + 180,
                "rotation_mode": "anchor",
                "fontsize": 8 if len(names) <= 32 else 7,
            }
        axes.annotate(name, (x, y), xytext=(points * x, points * y), textcoords="offset points", **look)


def _draw_edges(
    axes: Axes,
    positions: NDArray[np.float64],
    edges: Mapping[tuple[int, int], float],
    directed: bool,
    node_radius: float,
    theme: Theme,
) -> None:
    weights = list(edges.values())
    heaviest = max(map(abs, weights), default=1.0)
    labelled = 0 < len(edges) <= _LABELLED_EDGES and np.ptp(weights) >= 1e-9
    # many edges are drawn finer, so that the densest graph is a texture and not a blot
    fine = min(1.0, 8 / np.sqrt(len(edges) + 1))
    for (j, i), weight in edges.items():
        bend = _bend(positions, j, i) + (0.12 if (i, j) in edges else 0)
        axes.add_patch(
            FancyArrowPatch(
                positions[j],
                positions[i],
                arrowstyle="-|>" if directed else "-",
                connectionstyle=f"arc3,rad={bend}",
                mutation_scale=11,
                shrinkA=node_radius,
                shrinkB=node_radius,
                linewidth=fine * (0.5 + 2.5 * abs(weight) / heaviest),
                color=theme.muted,
                alpha=0.3 + 0.5 * fine,
                in_layout=False,
            )
        )
        if labelled:
            x, y = _on_arc(positions[j], positions[i], bend, 0.4)  # in the middle all diameters meet
            box = {"boxstyle": "round,pad=0.15", "facecolor": theme.surface, "edgecolor": "none"}
            axes.text(x, y, f"{weight:.3g}", fontsize=7.5, ha="center", va="center", bbox=box)


def _bend(positions: NDArray[np.float64], j: int, i: int) -> float:
    """Curvature that pulls an edge towards the centre, clear of the sites it passes."""
    if abs(i - j) in (1, len(positions) - 1):
        return 0.0
    middle, (dx, dy) = (positions[i] + positions[j]) / 2, positions[i] - positions[j]
    return float(-0.5 * middle @ (dy, -dx) / (dx**2 + dy**2))


def _on_arc(
    start: NDArray[np.float64], end: NDArray[np.float64], bend: float, t: float
) -> NDArray[np.float64]:
    """Point t of the quadratic Bézier curve that matplotlib's arc3 draws."""
    dx, dy = end - start
    control = (start + end) / 2 + bend * np.array([dy, -dx])
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
