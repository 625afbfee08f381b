"""Rows as a table, as Markdown and as a plot."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from rich.table import Table

from bench.samples import (
    CPU,
    GROWTH,
    MEETING_CPU,
    MEETING_MEMORY,
    MEMORY,
    SCALAR,
    SCALAR_CPU,
    SERVER_SHARE,
    SYSTEMS,
    TLS,
    VECTOR,
    Figure,
    Row,
)

_COLORS = dict(
    zip(
        SYSTEMS,
        ("#0072b2", "#56b4e9", "#cc79a7", "#e69f00", "#f0e442", "#d55e00", "#009e73", "#333333"),
        strict=True,
    )
)

_HEAD, _TARGETS = ("", "sites", "floats", "unit"), "targets"
_TABLES = (
    (SCALAR, VECTOR),
    (CPU, MEMORY, SCALAR_CPU, MEETING_CPU, MEETING_MEMORY),
    (SERVER_SHARE,),
    (GROWTH,),
)
"""Cases that share a table; the others share one more."""


def tables_of(rows: Sequence[Row]) -> Iterator[Table]:
    for cells in _tables(rows, "\n"):
        table = Table()
        for number, name in enumerate(cells[0]):
            table.add_column(
                name, justify="left" if number == 0 or name == _TARGETS else "right", no_wrap=True
            )
        for line in cells[1:]:
            table.add_row(*line)
        yield table


def markdown_of(rows: Sequence[Row]) -> str:
    return "\n".join(markdown_table(cells) for cells in _tables(rows, "<br>"))


def markdown_table(cells: Sequence[Sequence[str]]) -> str:
    """A table whose first line is its head."""
    rule = ["---" if number == 0 or name == _TARGETS else "---:" for number, name in enumerate(cells[0])]
    return "".join(f"| {' | '.join(line)} |\n" for line in (cells[0], rule, *cells[1:]))


def _tables(rows: Sequence[Row], newline: str) -> Iterator[list[tuple[str, ...]]]:
    """Head and lines of each table, with the columns that it needs."""
    others = {row.case for row in rows}.difference(*_TABLES)
    for cases in (*_TABLES, others):
        chosen = [row for row in rows if row.case in cases]
        widest_first = sorted(chosen, key=lambda row: -len(row.systems))
        systems = list(dict.fromkeys(system for row in widest_first for system in row.systems))
        end = 1 if any(row.targets for row in chosen) else 0
        lines = [(*_HEAD, *systems, *[_TARGETS][:end])]
        for row in chosen:
            figures = [_shown(row.systems.get(system), newline) for system in systems]
            lines.append((*_named(row), *figures, *[_judged(row, newline)][:end]))
        if chosen:
            yield lines


def plot(rows: Sequence[Row], file: Path) -> None:
    """Draw what the rows hold: scalars, vectors beside bare TLS, CPU, and the growth of a ring."""
    canvas = Canvas(figsize=(13, 8), layout="constrained")
    axes = canvas.subplots(2, 2)
    _bars(axes[0, 0], [row for row in rows if row.case == SCALAR], "scalar consensus, ms per iteration")
    _bars(axes[0, 1], [row for row in rows if row.case == VECTOR], "vectors, time relative to bare TLS", TLS)
    _bars(axes[1, 0], [row for row in rows if row.case == CPU], "CPU seconds per GB of float32 exchanged")
    growth = [row for row in rows if row.case == GROWTH]
    for floats in sorted({row.floats for row in growth}):
        for system in SYSTEMS:
            points = [
                (row.sites, row.systems[system].median)
                for row in growth
                if row.floats == floats and system in row.systems and row.systems[system].median
            ]
            if points:
                style = "-" if floats > 1 else "--"
                label = f"{system}, {floats:g} float32"
                axes[1, 1].loglog(
                    *zip(*points, strict=True), style, marker="o", color=_COLORS[system], label=label
                )
    axes[1, 1].set_title("ring, µs of all cores per directed edge", fontsize=10)
    axes[1, 1].set_xlabel("sites")
    if growth:
        sizes = sorted({row.sites for row in growth})
        axes[1, 1].set_xticks(sizes, map(str, sizes))
        axes[1, 1].minorticks_off()
        axes[1, 1].legend(fontsize=7)
    canvas.savefig(file, dpi=110)


def _bars(axes: Axes, rows: Sequence[Row], title: str, relative_to: str | None = None) -> None:
    width = 0.8 / len(SYSTEMS)
    for number, system in enumerate(SYSTEMS):
        heights = []
        for row in rows:
            height, unit = _median(row, system), _median(row, relative_to) if relative_to else 1.0
            heights.append(height / unit if height and unit else 0.0)
        if any(heights):
            places = [index + number * width for index in range(len(rows))]
            axes.bar(places, heights, width, color=_COLORS[system], label=system)
    axes.set_xticks(
        [index + 0.4 for index in range(len(rows))],
        [f"{row.sites} sites\n{row.floats:.0e}" if row.floats > 1 else f"{row.sites} sites" for row in rows],
        fontsize=8,
    )
    axes.set_title(title, fontsize=10)
    if rows:
        axes.set_yscale("log")
        axes.legend(fontsize=7)


def _median(row: Row, system: str) -> float | None:
    return row.systems[system].median if system in row.systems else None


def _named(row: Row) -> tuple[str, ...]:
    return row.case, str(row.sites), f"{row.floats:g}" if row.floats else "", row.unit


def _judged(row: Row, newline: str) -> str:
    return newline.join(f"{'met' if t.met else 'MISSED'}: {t.text} ({t.value:.3g})" for t in row.targets)


def _shown(figure: Figure | None, newline: str) -> str:
    if figure is None:
        return ""
    if figure.median is None:
        return "failed"
    failed = f"{newline}{figure.failed} of {figure.failed + figure.repeats} failed" if figure.failed else ""
    spread = f" ({_number(figure.p95)})" if figure.p95 is not None and figure.samples > 1 else ""
    return f"{_number(figure.median)}{spread}{failed}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
