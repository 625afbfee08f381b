"""Draws a dashboard: every panel at its place, titles and descriptions included."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.dates import DateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MultipleLocator
from numpy.typing import NDArray

from flaremesh.deploy.reports.boards import Board, Panel
from flaremesh.deploy.reports.live import Reading, Window
from flaremesh.deploy.reports.plots import LIGHT, Theme, line_style, use_log_scale

_WIDTH = 15.0
_COLUMNS = 24
_ROW = 0.42
_SHORT = 600.0
_DAY = 86400.0  # matplotlib counts time in days
_TICK_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200)
_GAP = 0.13
_LINE = 0.15
_NAMED = 14
_AXIS_DIGITS = 5
_COLOURED_CELLS = 20
_LETTER = 0.062  # mean width in inches of a letter of 8 points

_SUFFIXES = {"s": "s", "decbytes": "B", "Bps": "B/s"}

Values = NDArray[np.float64]
_Box = tuple[float, float, float, float]
"""Left, bottom, width, height in inches."""


def draw(board: Board, readings: Sequence[Sequence[Reading]], window: Window, theme: Theme) -> Figure:
    """All panels of a dashboard with what their queries found."""
    rows = max(panel.grid_pos.y + panel.grid_pos.h for panel in board.panels)
    height = rows * _ROW
    figure = Figure(figsize=(_WIDTH, height), dpi=110)
    figure.set_layout_engine("none")
    for panel, found in zip(board.panels, readings, strict=True):
        place, unit = panel.grid_pos, _WIDTH / _COLUMNS
        box = (place.x * unit, height - (place.y + place.h) * _ROW, place.w * unit, place.h * _ROW)
        if panel.type == "row":
            _write(figure, box[0] + _GAP, box[1] + _ROW / 2, panel.title, 11.5, theme.ink, weight="bold")
        else:
            _draw_panel(figure, box, panel, found, window, theme)
    return figure


def _draw_panel(
    figure: Figure, box: _Box, panel: Panel, readings: Sequence[Reading], window: Window, theme: Theme
) -> None:
    left, bottom, width, height = box[0] + _GAP / 2, box[1] + _GAP / 2, box[2] - _GAP, box[3] - _GAP
    _rectangle(figure, (left, bottom, width, height), theme.surface, theme.grid)
    left, width = left + _GAP, width - 2 * _GAP
    top = bottom + height - _GAP
    _write(figure, left, top, panel.title, 9.5, theme.ink, va="top", weight="bold")
    top -= 0.2
    said = textwrap.wrap(panel.description, max(20, int(width / _LETTER * 1.12)))
    for line in said:
        _write(figure, left, top, line, 7.5, theme.muted, va="top")
        top -= _LINE
    inside = (left, bottom + _GAP / 2, width, top - bottom - _GAP)
    drawn = {"timeseries": _curves, "stat": _numbers, "table": _table}[panel.type]
    if not any(reading.curves or reading.samples for reading in readings):
        _write(
            figure,
            inside[0] + inside[2] / 2,
            inside[1] + inside[3] / 2,
            panel.defaults.get("noValue", "no data"),
            10,
            theme.muted,
            ha="center",
            style="italic",
        )
        return
    drawn(figure, inside, panel, readings, window, theme)


def _curves(
    figure: Figure, box: _Box, panel: Panel, readings: Sequence[Reading], window: Window, theme: Theme
) -> None:
    curves = [
        (reading.name(curve.labels), curve.times, curve.values)
        for reading in readings
        for curve in sorted(reading.curves, key=lambda curve: reading.name(curve.labels))
    ]
    custom, unit = panel.defaults.get("custom", {}), panel.defaults["unit"]
    named = [name for name, _, _ in curves if name][:_NAMED]
    left, bottom, width, height = box
    # entries of the legend stand in columns below the axis
    columns = max(1, int(width / (0.45 + 0.055 * max(map(len, named), default=1))))
    legend = _LINE * math.ceil((len(named) + (len(curves) > len(named) > 0)) / columns)
    axes = _axes(figure, (left + 0.62, bottom + legend + 0.3, width - 0.72, height - legend - 0.35))
    if custom.get("stacking", {}).get("mode") == "normal":
        times = np.unique(np.concatenate([times for _, times, _ in curves]))
        layers = [np.nan_to_num(_on(times, *curve[1:]), posinf=0) for curve in curves]
        colours = [line_style(place)["color"] for place in range(len(curves))]
        axes.stackplot(times / _DAY, layers, colors=colours, alpha=0.75, labels=[c[0] for c in curves])
    else:
        for place, (name, times, values) in enumerate(curves):
            marker = "o" if len(values) == 1 else ""
            label = name if name in named else "_"
            # where there was no series the curve breaks
            grid = np.arange(times[0], times[-1] + window.step / 2, window.step)
            axes.plot(grid / _DAY, _on(grid, times, values), **line_style(place), marker=marker, label=label)
    _scale_time(axes, window, width)
    values = np.concatenate([values for _, _, values in curves])
    values = values[np.isfinite(values)]
    if custom.get("scaleDistribution", {}).get("type") == "log" and (values > 0).any():
        use_log_scale(axes, values[values > 0])
    else:
        axes.yaxis.set_major_formatter(lambda value, _: _text(value, unit, _AXIS_DIGITS))
        _start_at_zero(axes, values)
    if named:
        handles, labels = axes.get_legend_handles_labels()
        shown = list(zip(handles, labels, strict=True))[:_NAMED]
        figure.legend(
            [handle for handle, _ in shown],
            [label for _, label in shown],
            loc="lower left",
            bbox_to_anchor=_share(figure, left + 0.45, bottom - 0.02),
            ncols=columns,
            borderaxespad=0,
            borderpad=0,
            labelspacing=0.3,
            columnspacing=1.2,
            handlelength=1.8,
        )
        if len(curves) > len(named):
            more = f"and {len(curves) - len(named)} more"
            _write(figure, left + width, bottom, more, 8, theme.muted, ha="right", va="bottom")


def _scale_time(axes: Axes, window: Window, width: float) -> None:
    look = "%H:%M:%S" if window.seconds <= _SHORT else "%H:%M" if window.seconds <= _DAY else "%d %b %H:%M"
    axes.set_xlim(window.start / _DAY, window.end / _DAY)
    least = window.seconds / max(2, int(width))
    days = math.ceil(least / _DAY) * _DAY
    step = next((step for step in _TICK_SECONDS if step >= least), days)
    axes.xaxis.set_major_locator(MultipleLocator(step / _DAY))
    # matplotlib.dates is not annotated
    axes.xaxis.set_major_formatter(DateFormatter(look))  # type: ignore[no-untyped-call]


def _start_at_zero(axes: Axes, values: Values) -> None:
    """Unless there are negative values, or all are far from zero and close to each other."""
    low, high = (values.min(), values.max()) if values.size else (0.0, 0.0)
    if high == low == 0:
        axes.set_ylim(-0.02, 1)
    elif low == high > 0 or 0 <= low < 0.7 * high:
        top = axes.get_ylim()[1]
        axes.set_ylim(-0.02 * top, top)  # a line at zero is seen whole


def _numbers(
    figure: Figure, box: _Box, panel: Panel, readings: Sequence[Reading], window: Window, theme: Theme
) -> None:
    samples = sorted(
        ((reading.name(sample.labels), sample.value) for reading in readings for sample in reading.samples),
    )
    left, bottom, width, height = box
    unit = panel.defaults["unit"]
    name_only = panel.options.get("textMode") == "name"
    columns = min(len(samples), max(1, int(width / 1.05)))
    lines = math.ceil(len(samples) / columns)
    cell_width, cell_height = width / columns, height / lines
    size = min(24.0, 72 * cell_height * (0.42 if len(samples) > 1 and not name_only else 0.6))
    for place, (name, value) in enumerate(samples):
        x = left + (place % columns + 0.5) * cell_width
        y = bottom + height - (place // columns + 0.5) * cell_height
        meaning, colour = _meant(panel, value, theme)
        text = name if name_only else meaning or _text(value, unit)
        fitting = min(size, 72 * cell_width / (0.8 * max(len(text), 1)))
        if name and not name_only:
            _write(figure, x, y + 0.3 * cell_height, name, 8, theme.muted, ha="center")
            y -= 0.08 * cell_height
        _write(figure, x, y, text, fitting, colour, ha="center", weight="bold")


def _table(
    figure: Figure, box: _Box, panel: Panel, readings: Sequence[Reading], window: Window, theme: Theme
) -> None:
    (transformation,) = panel.transformations
    samples = [sample for reading in readings for sample in reading.samples]
    options = transformation.options
    if transformation.id == "groupingToMatrix":
        values = {
            (sample.labels[options["rowField"]], sample.labels[options["columnField"]]): sample.value
            for sample in samples
        }
        _matrix(figure, box, panel, values, theme)
        return
    places, left_out = options["indexByName"], options["excludeByName"]
    columns = sorted((name for name in places if not left_out.get(name)), key=places.__getitem__)
    unit = panel.defaults["unit"]
    heads = [options["renameByName"].get(name, name) for name in columns]
    cells = sorted(
        [_text(sample.value, unit) if name == "Value" else sample.labels.get(name, "") for name in columns]
        for sample in samples
    )
    left, bottom, width, height = box
    fitting = max(1, int(height / 0.22) - 1)
    kept = (
        cells if len(cells) <= fitting else [*cells[: fitting - 1], [f"and {len(cells) - fitting + 1} more"]]
    )
    lengths = [max(len(row[place]) for row in [heads, *cells]) for place in range(len(columns))]
    starts = np.cumsum([0, *lengths[:-1]]) / sum(lengths) * min(width, sum(lengths) * 0.12 + len(columns))
    for line, row in enumerate([heads, *kept]):
        for start, text in zip(starts, row, strict=False):
            colour = theme.muted if line == 0 else theme.ink
            _write(figure, left + float(start), bottom + height - 0.22 * (line + 0.5), text, 8.5, colour)


def _matrix(
    figure: Figure, box: _Box, panel: Panel, values: Mapping[tuple[str, str], float], theme: Theme
) -> None:
    rows, columns = (sorted({key[side] for key in values}) for side in (0, 1))
    left, bottom, width, height = box
    margin = min(1.5, _LETTER * max(map(len, rows)) + 0.15)
    above = 0.25 if len(columns) * _LETTER * max(map(len, columns)) < width - margin else 0.8
    axes = _axes(figure, (left + margin, bottom, width - margin, height - above))
    many = max(len(rows), len(columns)) > _COLOURED_CELLS
    unit = panel.defaults["unit"]
    finite = [abs(value) for value in values.values() if math.isfinite(value)]
    greatest = max(finite, default=0) or 1
    shades = LinearSegmentedColormap.from_list("shades", [theme.faint, theme.accent])
    for (row, column), value in values.items():
        meaning, colour = _meant(panel, value, theme)
        fill = colour if meaning else shades(abs(value) / greatest if math.isfinite(value) else 0)
        x, y = columns.index(column), rows.index(row)
        axes.add_patch(Rectangle((x, y), 1, 1, facecolor=fill, edgecolor=theme.surface, linewidth=1.5))
        if not many:
            text = meaning or _text(value, unit)
            bright = np.dot(to_rgb(fill), (0.299, 0.587, 0.114)) > 0.5
            cell = (width - margin) / len(columns)
            size = min(8.5, 72 * cell / (0.62 * len(text)))
            axes.text(
                x + 0.5,
                y + 0.5,
                text,
                fontsize=size,
                color="black" if bright else "white",
                ha="center",
                va="center",
            )
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    axes.set_xticks([x + 0.5 for x in range(len(columns))], columns, rotation=0 if above == 0.25 else 90)
    axes.set_yticks([y + 0.5 for y in range(len(rows))], rows)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelcolor=theme.ink, labelsize=8 if not many else 5)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _meant(panel: Panel, value: float, theme: Theme) -> tuple[str | None, str]:
    """What a value stands for, if the panel says so, and its colour."""
    for mapping in panel.defaults.get("mappings", ()):
        if found := mapping["options"].get(f"{value:g}"):
            return found["text"], _colour(found["color"], theme)
    colour = "text"
    for step in panel.defaults.get("thresholds", {}).get("steps", ()):
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return None, _colour(colour, theme)


def _colour(name: str, theme: Theme) -> str:
    light = {"green": "#116329", "orange": "#8a5300", "red": "#b3261e"}
    dark = {"green": "#57ab5a", "orange": "#d9a036", "red": "#ff7b72"}
    return (light if theme is LIGHT else dark).get(name, theme.ink)


def _text(value: float, unit: str, digits: int = 3) -> str:
    """A value in one of the units that the dashboards use, rounded for a reader."""
    if not math.isfinite(value):
        return str(value)
    if unit == "percentunit":
        return f"{100 * value:.{digits}g} %"
    if unit in _SUFFIXES:
        return EngFormatter(unit=_SUFFIXES[unit], places=None)(float(f"{value:.{digits}g}"))
    number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"
    return f"{number} /s" if unit == "ops" else number


def _axes(figure: Figure, box: _Box) -> Axes:
    width, height = figure.get_size_inches()
    left, bottom, across, up = box
    axes: Axes = figure.add_axes((left / width, bottom / height, across / width, max(up, 0.2) / height))
    return axes


def _share(figure: Figure, x: float, y: float) -> tuple[float, float]:
    width, height = figure.get_size_inches()
    return x / width, y / height


def _write(figure: Figure, x: float, y: float, text: str, size: float, colour: str, **look: Any) -> None:
    figure.text(*_share(figure, x, y), text, fontsize=size, color=colour, **({"va": "center"} | look))


def _rectangle(figure: Figure, box: _Box, fill: str, edge: str) -> None:
    figure.add_artist(
        Rectangle(
            _share(figure, *box[:2]),
            *_share(figure, *box[2:]),
            transform=figure.transFigure,
            facecolor=fill,
            edgecolor=edge,
            linewidth=0.8,
            zorder=-1,
        )
    )


def _on(grid: Values, times: Values, values: Values) -> Values:
    """Values at the moments of a grid, NaN where there are none."""
    at = np.clip(np.searchsorted(times, grid - 1e-3), 0, len(times) - 1)
    found: Values = np.where(np.abs(times[at] - grid) < 1e-2, values[at], np.nan)
    return found
