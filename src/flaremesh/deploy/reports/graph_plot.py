"""The figure of a run's graph, with its weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import rgb_to_hsv, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from numpy.typing import NDArray

from flaremesh.deploy.reports.style import Theme, site_style, subtitle
from flaremesh.deploy.runs.results import RecordedRun
from flaremesh.p2p.outcome import Graph

_LABELLED_EDGES = 24
_WEIGHTED_SITES = 16


def graph(run: RecordedRun, theme: Theme) -> Figure | None:
    """The graph with its weights, averaged over the phases of a graph that changes."""
    if run.result.graph is None or not run.result.graph.matrices:
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
    subtitle(axes, _about_weights(run.result.graph, edges, directed), theme)

    # clockwise from the top: on a circle no edge crosses a name, whatever the graph
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / len(names)
    positions = np.column_stack([np.cos(angles), np.sin(angles)])
    points = float(np.clip(100 / np.sqrt(len(names)), 10, 30))
    colours = [site_style(run, name)["color"] for name in names]
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
